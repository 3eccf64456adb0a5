"""The name of one version of one servable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServableId:
    """One version of one servable; prints as TensorFlow Serving prints it in logs and errors."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"
