"""A table as a model: asked with keys, it answers with their values.

A version is a file ``table.csv`` with a key and a value in each line.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from salver.errors import InvalidArgument
from salver.servables.python import Call, PythonPlatform, Tensor


class LookupTable:
    """One version of a table, in memory."""

    signatures: ClassVar = {
        "serving_default": Call(
            inputs={"keys": Tensor("string", [None])},
            outputs={"values": Tensor("string", [None]), "found": Tensor("bool", [None])},
        )
    }
    thread_safe = True
    predictable = True

    def __init__(self, path: Path) -> None:
        """Read the file; a line that is no pair refuses the whole version."""
        self._values: dict[bytes, bytes] = {}
        with (path / "table.csv").open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if len(row) != 2:
                    raise InvalidArgument(f"line {number} of table.csv is no key and value: {row}")
                key, value = row
                self._values[key.encode()] = value.encode()

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """A value for each key, empty where there is none."""
        keys = inputs["keys"].tolist()
        return {
            "values": np.array([self._values.get(key, b"") for key in keys], object),
            "found": [key in self._values for key in keys],
        }


platform = PythonPlatform(LookupTable)
