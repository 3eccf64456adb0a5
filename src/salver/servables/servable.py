"""The contract between a model and those who call it.

A servable is one loaded version of one model, whatever runs it.
Verbs, batching and the doors know this protocol and nothing of any framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from salver.signature import Signature


class PreparedRun(Protocol):
    """``Servable.run`` for names that were given before."""

    def __call__(self, tensors: Sequence[np.ndarray], timeout_s: float | None) -> list[np.ndarray]:
        """Run once, with the tensors in the order of the names."""


class Servable(Protocol):
    """A loaded model version. Every member may be used from several threads at once."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Every signature, by name."""

    @property
    def signature_defs(self) -> Mapping[str, bytes]:
        """Every signature as the serialized ``tensorflow.SignatureDef`` it was exported with."""

    @property
    def predictable(self) -> bool:
        """Whether the sizes of the inputs decide how long a run takes.

        A graph with a loop or a queue may take, or wait for, any time, whatever it took before.
        """

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Feed tensors by graph name, fetch tensors by graph name, in the order of ``fetches``.

        Strings travel as object arrays of ``bytes``; dtypes NumPy lacks as ``ml_dtypes``.
        Neither dtype nor shape is checked against a signature: the graph decides, as in TensorFlow.

        Raises:
            ServingError: what the runtime says, with its code and text.
        """

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        """What ``run`` does for these names, to be called again and again with other tensors.

        Not to be called once the handle of the servable is returned.
        """
