"""A sample of live traffic: what was asked of one version is asked of the next before it serves.

A servable around a servable keeps a copy of some of its requests that were answered: every one
until there are enough of a kind, then one in many.  So a request pays a call and a count, and a
server that keeps no sample has no such servable and pays nothing.

Samples live in memory only, bounded in number and in bytes, and go with the process.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from salver.core.loader import Cancellable, Loader
from salver.errors import FailedPrecondition
from salver.metrics import Metrics
from salver.model_server.rehearsal import Candidate, Pace
from salver.model_server.warmup import replay_leniently
from salver.servables.servable import PreparedRun, Servable
from salver.signature import Signature

SAMPLED_ONE_IN: Final = 64
"""How many requests of a kind pass by until the next is kept, once there are enough of them."""

MAX_KINDS: Final = 16
"""Kinds of request kept apart per model: a signature, with the outputs that are asked for."""

MAX_MODEL_BYTES: Final = 16 << 20
MAX_BYTES: Final = 256 << 20
"""Of all samples together; beyond it, the sample that was added to longest ago goes."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What requests have in common that TensorFlow keeps one executor for, by their aliases."""

    signature_name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SampledRequest:
    """The tensors of one request, in the order of its kind's inputs."""

    tensors: tuple[np.ndarray, ...]
    nbytes: int


@dataclass(slots=True)
class _ModelSample:
    kinds: dict[Kind, deque[SampledRequest]] = field(default_factory=dict)  # newest last
    nbytes: int = 0


class TrafficSample:
    """Recent requests of every model; any thread may add, and the loading one replays.

    Of each kind up to ``per_kind`` are kept, the newest.
    """

    def __init__(
        self,
        per_kind: int,
        metrics: Metrics,
        *,
        max_model_bytes: int = MAX_MODEL_BYTES,
        max_bytes: int = MAX_BYTES,
        one_in: int = SAMPLED_ONE_IN,
    ) -> None:
        self._per_kind = per_kind
        self._metrics = metrics
        self._max_model_bytes = max_model_bytes
        self._max_bytes = max_bytes
        self._one_in = one_in
        self._lock = threading.Lock()
        self._models: OrderedDict[str, _ModelSample] = OrderedDict()
        self._nbytes = 0

    def loader(self, name: str, loader: Loader[Servable]) -> SampledLoader:
        """A loader around a loader: what it loads gives to the sample of ``name``."""
        return SampledLoader(name, loader, self)

    def __call__(self, candidate: Candidate, pace: Pace) -> None:
        """Ask a new version what was asked of the last one; it may well refuse.

        Raises:
            Cancelled: nobody wishes for the version any more.
        """
        asks = [
            partial(_ask, candidate.servable, kind, request)
            for kind, request in self.requests(candidate.id.name)
        ]
        if asks:
            replay_leniently(candidate, pace, asks, "live traffic", self._metrics)

    def requests(self, name: str) -> list[tuple[Kind, SampledRequest]]:
        """The sample of a model, as it is now."""
        with self._lock:
            sample = self._models.get(name, _ModelSample())
            return [(kind, each) for kind, kept in sample.kinds.items() for each in kept]

    @property
    def nbytes(self) -> int:
        """What all samples take."""
        return self._nbytes

    def keep(self, name: str, kind: Kind, tensors: Sequence[np.ndarray]) -> int:
        """Keep a copy of a request, in the place of older ones; how many to let pass after it."""
        nbytes = sum(map(_nbytes, tensors))
        if nbytes > self._max_model_bytes // 4:  # a single one would be the whole sample
            return self._one_in - 1
        request = SampledRequest(tuple(tensor.copy() for tensor in tensors), nbytes)
        with self._lock:
            sample = self._models.setdefault(name, _ModelSample())
            kept = self._kept(sample, kind)
            kept.append(request)
            self._resize(sample, nbytes)
            while len(kept) > self._per_kind:
                self._resize(sample, -kept.popleft().nbytes)
            is_full = len(kept) >= self._per_kind or sample.nbytes > self._max_model_bytes
            self._make_room(sample)
            self._models.move_to_end(name)
            while self._nbytes > self._max_bytes:
                self._nbytes -= self._models.popitem(last=False)[1].nbytes
            return self._one_in - 1 if is_full else 0

    def _kept(self, sample: _ModelSample, kind: Kind) -> deque[SampledRequest]:
        """The requests of a kind, which is the newest now; too many, and the oldest goes."""
        kept = sample.kinds.pop(kind, deque())
        if len(sample.kinds) >= MAX_KINDS:
            oldest = sample.kinds.pop(next(iter(sample.kinds)))
            self._resize(sample, -sum(request.nbytes for request in oldest))
        sample.kinds[kind] = kept
        return kept

    def _make_room(self, sample: _ModelSample) -> None:
        """Drop old requests of the kind that takes most, until the model is within its bounds."""
        while sample.nbytes > self._max_model_bytes:
            largest = max(sample.kinds.values(), key=lambda kept: sum(r.nbytes for r in kept))
            self._resize(sample, -largest.popleft().nbytes)

    def _resize(self, sample: _ModelSample, by: int) -> None:
        sample.nbytes += by
        self._nbytes += by


class SampledLoader:
    """Loads what another loader loads, and lets its requests be sampled."""

    def __init__(self, name: str, loader: Loader[Servable], sample: TrafficSample) -> None:
        self._name = name
        self._loader = loader
        self._sample = sample

    def estimate_resources(self) -> int:
        """As the loader's."""
        return self._loader.estimate_resources()

    def load(self) -> None:
        """Load."""
        self._loader.load()

    def cancel(self) -> None:
        """End the load under way soon, if the loader can."""
        if isinstance(self._loader, Cancellable):
            self._loader.cancel()

    def unload(self) -> None:
        """Unload."""
        self._loader.unload()

    def servable(self) -> SampledServable:
        """What was loaded, with its requests sampled."""
        return SampledServable(self._name, self._loader.servable(), self._sample)


class SampledServable:
    """A servable around a servable: some of the requests that it answers are kept."""

    def __init__(self, name: str, servable: Servable, sample: TrafficSample) -> None:
        self._name = name
        self._servable = servable
        self._sample = sample
        self._lock = threading.Lock()
        self._samplers: OrderedDict[_Names, _Sampler | None] = OrderedDict()  # newest use last

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """As the servable's."""
        return self._servable.signatures

    @property
    def signature_defs(self) -> Mapping[str, bytes]:
        """As the servable's."""
        return self._servable.signature_defs

    @property
    def predictable(self) -> bool:
        """As the servable's."""
        return self._servable.predictable

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Run the servable; a request that it answered may be kept."""
        results = self._servable.run(feeds, fetches, timeout_s=timeout_s)
        sampler = self._sampler(tuple(feeds), tuple(fetches))
        if sampler is not None:
            sampler.answered(list(feeds.values()))
        return results

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        """As the servable's; a request that was answered may be kept."""
        run = self._servable.prepare(feeds, fetches)
        sampler = self._sampler(tuple(feeds), tuple(fetches))
        if sampler is None:
            return run
        answered = sampler.answered

        def sampled(tensors: Sequence[np.ndarray], timeout_s: float | None) -> list[np.ndarray]:
            results = run(tensors, timeout_s)
            answered(tensors)
            return results

        return sampled

    def _sampler(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> _Sampler | None:
        """Who samples requests of these names; of too many, those used longest ago are dropped."""
        key = feeds, fetches
        with self._lock:
            if key not in self._samplers:
                kind = kind_of(self._servable.signatures, feeds, fetches)
                sampler = None if kind is None else _Sampler(self._name, kind, self._sample)
                self._samplers[key] = sampler
                if len(self._samplers) > MAX_KINDS:
                    self._samplers.popitem(last=False)
            self._samplers.move_to_end(key)
            return self._samplers[key]


_Names = tuple[tuple[str, ...], tuple[str, ...]]
"""What is fed and what is fetched, by names of the graph."""


class _Sampler:
    """Decides which requests of one kind are kept.

    Threads may count at the same time: a request more or less makes no difference.
    """

    __slots__ = ("_kind", "_name", "_sample", "_to_pass")

    def __init__(self, name: str, kind: Kind, sample: TrafficSample) -> None:
        self._name = name
        self._kind = kind
        self._sample = sample
        self._to_pass = 0

    def answered(self, tensors: Sequence[np.ndarray]) -> None:
        """Take note of a request that was answered."""
        if self._to_pass > 0:
            self._to_pass -= 1
        else:
            self._to_pass = self._sample.keep(self._name, self._kind, tensors)


def kind_of(
    signatures: Mapping[str, Signature], feeds: Sequence[str], fetches: Sequence[str]
) -> Kind | None:
    """What names of the graph mean to clients; None where it takes several signatures."""
    for name, signature in signatures.items():
        inputs = {info.name: alias for alias, info in signature.inputs.items()}
        outputs = {info.name: alias for alias, info in signature.outputs.items()}
        if inputs.keys() == set(feeds) and outputs.keys() >= set(fetches):
            return Kind(
                name,
                tuple(inputs[feed] for feed in feeds),
                tuple(outputs[fetch] for fetch in fetches),
            )
    return None


def _ask(servable: Servable, kind: Kind, request: SampledRequest, timeout_s: float | None) -> None:
    signature = servable.signatures.get(kind.signature_name)
    if (
        signature is None
        or signature.inputs.keys() != set(kind.inputs)
        or not signature.outputs.keys() >= set(kind.outputs)
    ):
        raise FailedPrecondition(f"signature {kind.signature_name!r} is another one or gone")
    feeds = {
        signature.inputs[alias].name: tensor
        for alias, tensor in zip(kind.inputs, request.tensors, strict=True)
    }
    fetches = [signature.outputs[alias].name for alias in kind.outputs]
    servable.run(feeds, fetches, timeout_s=timeout_s)


def _nbytes(tensor: np.ndarray) -> int:
    if tensor.dtype.hasobject:
        return sum(map(len, tensor.flat), tensor.nbytes)
    return tensor.nbytes
