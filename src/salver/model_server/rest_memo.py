"""What the REST door remembers of Predict calls that it answered.

By target, and there by the signature that a body names.  Nothing here goes stale unseen: whoever
uses a plan compares its signature with that of the servable he holds.
"""

from __future__ import annotations

from typing import Final

from salver.apis.requests import ModelSpec
from salver.apis.rest_small import SmallReader
from salver.inference import PredictPlan
from salver.model_server.batch_queues import BatchQueue
from salver.model_server.measuring import CallRecorder
from salver.model_server.placement import Kind
from salver.signature import DEFAULT_SERVING_SIGNATURE, Signature

MAX_TARGETS: Final = 256
"""Targets remembered; clients that keep making up new ones start over, at no great cost."""

MAX_PREDICTS: Final = 64
"""Signatures remembered for one target."""


MAX_QUEUES: Final = 64
"""Shapes of rows remembered for one signature."""

RowShapes = tuple[tuple[int, ...], ...]


class KnownPredict:
    """How to read a body that names a certain signature, and what to run."""

    __slots__ = ("is_predictable", "plan", "queues", "reader")

    def __init__(self, name: str, signature: Signature, *, is_predictable: bool) -> None:
        self.plan = PredictPlan(name, signature, list(signature.inputs), ())
        self.reader = SmallReader(signature)
        self.is_predictable = is_predictable
        self.queues: dict[RowShapes, BatchQueue | None] = {}
        """With whom a call may share a run, by the shapes of its inputs' rows."""


class KnownTarget:
    """What a target means, and what was asked of it; used on the event loop only."""

    __slots__ = ("kinds", "predicts", "recorder", "spec")

    def __init__(self, spec: ModelSpec, recorder: CallRecorder) -> None:
        self.spec = spec
        self.recorder = recorder
        self.kinds: dict[int, Kind] = {}
        """Where calls run, by the bits of their body's size."""
        self.predicts: dict[str | None, KnownPredict] = {}
        """By the signature's name as the body has it, empty for the default one."""

    def learn(self, asked: str, signature: Signature, *, is_predictable: bool) -> None:
        """Remember how to answer bodies that name a signature in these words."""
        known = self.predicts.get(asked)
        if known is not None and known.plan.signature is signature:
            return
        if len(self.predicts) >= MAX_PREDICTS:
            self.predicts.clear()
        name = asked or DEFAULT_SERVING_SIGNATURE
        self.predicts[asked] = KnownPredict(name, signature, is_predictable=is_predictable)


class TargetMemo:
    """The targets of Predict calls that were answered, as clients spell them."""

    def __init__(self) -> None:
        self._known: dict[str, KnownTarget] = {}

    def find(self, method: str, target: str) -> KnownTarget | None:
        """What is known of a target, if it was posted to before."""
        return self._known.get(target) if method == "POST" else None

    def of_model(self, name: str) -> list[KnownTarget]:
        """What is known of targets that mean a model."""
        return [known for known in self._known.values() if known.spec.name == name]

    def learn(self, target: str, known: KnownTarget) -> KnownTarget:
        """Remember a target."""
        if len(self._known) >= MAX_TARGETS:
            self._known.clear()
        self._known[target] = known
        return known
