"""Which signatures may be batched: found out while a version loads, and remembered while it is.

``batching/sameness.py`` says how; here it is one of the rehearsals of a version.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from salver.batching.sameness import Verdict, verdict
from salver.core.servable_id import ServableId
from salver.core.servable_state import ManagerState, ServableState
from salver.errors import Cancelled, DeadlineExceeded, ServingError
from salver.model_server.rehearsal import Candidate, Pace
from salver.servables.servable import Servable
from salver.signature import Signature

logger = logging.getLogger(__name__)

MAX_TRY_S: Final = 10.0
"""For all signatures of a version together; those that are left are not batched."""

NOTHING: Final[Mapping[str, Verdict]] = MappingProxyType({})

NO_TIME: Final = Verdict(is_batchable=False, reason="there was no time to try it")


class BatchCheck:
    """The verdicts on the signatures of every version that is loaded.

    The loading thread writes them; any thread reads.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._verdicts: dict[ServableId, Mapping[str, Verdict]] = {}

    def __call__(self, candidate: Candidate, pace: Pace) -> None:
        """Try each signature of a version.

        Raises:
            Cancelled: nobody wishes for the version any more.
        """
        ends_s = self._clock() + MAX_TRY_S
        servable = candidate.servable
        self._verdicts[candidate.id] = {
            name: self._verdict(candidate, name, signature, pace, ends_s)
            for name, signature in servable.signatures.items()
        }

    def of(self, servable_id: ServableId) -> Mapping[str, Verdict]:
        """The verdicts on a version's signatures, by name; empty where none was tried."""
        return self._verdicts.get(servable_id, NOTHING)

    def forget(self, state: ServableState) -> None:
        """Let go of a version that has ended."""
        if state.manager_state is ManagerState.END:
            self._verdicts.pop(state.id, None)

    def _verdict(
        self, candidate: Candidate, name: str, signature: Signature, pace: Pace, ends_s: float
    ) -> Verdict:
        run = _runs(candidate.servable, signature, pace, self._clock, ends_s)
        try:
            found = verdict(signature, run)
        except _CutShortError as cut:
            if isinstance(cut.error, Cancelled):
                raise cut.error from None
            found = NO_TIME
        except Exception as error:  # noqa: BLE001 -- a trial that fails is no failed load
            found = Verdict(is_batchable=False, reason=f"trying it failed: {error!r}")
        logger.info(
            "Signature %r of servable %s is %s: %s",
            name,
            candidate.id,
            "batched" if found.is_batchable else "not batched",
            found.reason,
        )
        return found


class _CutShortError(Exception):
    """The rehearsal is over, whatever the model would have said."""

    def __init__(self, error: ServingError) -> None:
        super().__init__(str(error))
        self.error = error


def _runs(
    servable: Servable,
    signature: Signature,
    pace: Pace,
    clock: Callable[[], float],
    ends_s: float,
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    feeds = [info.name for info in signature.inputs.values()]
    fetches = [info.name for info in signature.outputs.values()]

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        left_s = ends_s - clock()
        try:
            limit_s = pace.left_s()
        except ServingError as error:
            raise _CutShortError(error) from None
        if left_s <= 0:
            raise _CutShortError(DeadlineExceeded(f"more than {MAX_TRY_S:g} s"))
        return servable.run(
            dict(zip(feeds, inputs, strict=True)),
            fetches,
            timeout_s=left_s if limit_s is None else min(left_s, limit_s),
        )

    return run
