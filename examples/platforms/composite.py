"""Models made of models: several servables behind one name, loaded and replaced as one version.

A version is a file ``composite.json`` and a folder for each part, of whatever platform:

    {"parts": {"softmax": {"platform": "tensorflow", "path": "softmax"}, …},
     "signatures": {"serving_default": {
       "steps": [{"part": "softmax", "signature": "predict_images",
                  "takes": {"images": "images"}, "gives": {"scores": "by_softmax"}}, …],
       "outputs": {"scores": ["by_softmax", "by_nearest"]}}}}

A step asks a part: ``takes`` says which value goes into each of its inputs, and ``gives`` what its
outputs are called from then on.  A value that no earlier step gives is an input of the signature.
An output is one value, or the mean of several.  A part's own signatures are there, too, as
``softmax/predict_images``.

This one keeps to the whole contract by itself: it makes loaders, and its servables are its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from salver.core.loader import Loader
from salver.core.servable_id import ServableId
from salver.errors import DeadlineExceeded, InvalidArgument, NotFound
from salver.protos.saved_model_pb2 import SignatureDef, TensorInfo
from salver.servables.platform import MakeLoader, PlatformContext
from salver.servables.servable import PreparedRun, Servable
from salver.signature import PREDICT_METHOD, Signature, read_signature


def platform(context: PlatformContext) -> MakeLoader:
    """The platform: a loader for each version, which has this server's other platforms at hand."""
    return lambda servable_id, path: CompositeLoader(context, servable_id, Path(path))


class CompositeLoader:
    """Loads the parts of one version, and unloads them in reverse."""

    def __init__(self, context: PlatformContext, servable_id: ServableId, path: Path) -> None:
        self._context = context
        self._id = servable_id
        self._path = path
        self._loaded = ExitStack()
        self._servable: Composite | None = None

    def estimate_resources(self) -> int:
        """What the parts need together."""
        return sum(loader.estimate_resources() for _, loader in self._parts(self._read()))

    def load(self) -> None:
        """Load every part; if one cannot be loaded, those before it are unloaded again."""
        plan = self._read()
        with ExitStack() as loaded:
            parts = {}
            for name, loader in self._parts(plan):
                loader.load()
                loaded.callback(loader.unload)
                parts[name] = loader.servable()
            self._servable = Composite(parts, plan["signatures"])
            self._loaded = loaded.pop_all()

    def unload(self) -> None:
        """Unload every part."""
        self._servable = None
        self._loaded.close()

    def servable(self) -> Composite:
        """What was loaded."""
        if self._servable is None:
            raise NotFound(f"{self._path} is not loaded")
        return self._servable

    def _read(self) -> Any:
        try:
            plan = json.loads((self._path / "composite.json").read_bytes())
        except FileNotFoundError:
            raise NotFound(f"{self._path} has no composite.json") from None
        if not isinstance(plan, dict) or not {"parts", "signatures"} <= set(plan):
            raise InvalidArgument("composite.json needs parts and signatures")
        return plan

    def _parts(self, plan: Any) -> Iterator[tuple[str, Loader[Servable]]]:
        """The loaders of the parts, by name."""
        for name, part in plan["parts"].items():
            path = (self._path / part["path"]).resolve()
            if not path.is_relative_to(self._path.resolve()):
                raise InvalidArgument(f"part {name} lies outside of its version: {part['path']}")
            part_id = ServableId(f"{self._id.name}/{name}", self._id.version)
            yield name, self._context.make_loader(part["platform"])(part_id, str(path))


@dataclass(frozen=True)
class Step:
    """One question to one part."""

    part: Servable
    feeds: Mapping[str, str]
    """Names in the part to names of values."""
    fetches: Mapping[str, str]

    def run(self, values: dict[str, np.ndarray], timeout_s: float | None) -> None:
        """Ask the part with what is among ``values``, and put its answers there."""
        feeds = {name: values[value] for name, value in self.feeds.items()}
        results = self.part.run(feeds, list(self.fetches), timeout_s=timeout_s)
        values.update(zip(self.fetches.values(), results, strict=True))


@dataclass(frozen=True)
class Pipeline:
    """One signature: its steps, and the values that make up each of its outputs."""

    steps: Sequence[Step]
    outputs: Mapping[str, Sequence[str]]
    definition: bytes

    def run(
        self, inputs: Mapping[str, np.ndarray], timeout_s: float | None
    ) -> dict[str, np.ndarray]:
        """Take every step, within the time that there is."""
        ends_s = None if timeout_s is None else time.monotonic() + timeout_s
        values = dict(inputs)
        for step in self.steps:
            step.run(values, _left_s(ends_s))
        return {alias: _mean([values[one] for one in of]) for alias, of in self.outputs.items()}


class Composite:
    """The parts of one version, and what is made of them; from several threads at once."""

    def __init__(self, parts: Mapping[str, Servable], signatures: Mapping[str, Any]) -> None:
        self._pipelines = {
            **{f"{part}/{name}": _own(parts, part, name) for part, name in _signatures_of(parts)},
            **{name: _pipeline(parts, name, wanted) for name, wanted in signatures.items()},
        }
        self.signature_defs: Mapping[str, bytes] = {
            name: pipeline.definition for name, pipeline in self._pipelines.items()
        }
        self.signatures: Mapping[str, Signature] = {
            name: read_signature(definition) for name, definition in self.signature_defs.items()
        }
        self._signature_of = {
            info.name: name
            for name, signature in self.signatures.items()
            for info in signature.outputs.values()
        }
        self.predictable = all(part.predictable for part in parts.values())

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        *,
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Take the steps of each signature that one of the fetches is of."""
        results: dict[str, np.ndarray] = {}
        for name in dict.fromkeys(self._signature_of[fetch] for fetch in fetches):
            answers = self._pipelines[name].run(feeds, timeout_s)
            for alias, info in self.signatures[name].outputs.items():
                results[info.name] = answers[alias]
        return [results[fetch] for fetch in fetches]

    def prepare(self, feeds: Sequence[str], fetches: Sequence[str]) -> PreparedRun:
        """There is nothing to prepare."""
        names, wanted = tuple(feeds), tuple(fetches)
        return lambda tensors, timeout_s: self.run(
            dict(zip(names, tensors, strict=True)), wanted, timeout_s=timeout_s
        )


def _pipeline(parts: Mapping[str, Servable], name: str, wanted: Any) -> Pipeline:
    """A signature of ``composite.json``; what its values are like, its parts know."""
    known: dict[str, TensorInfo] = {}
    message = SignatureDef(method_name=PREDICT_METHOD)
    steps = []
    for step in wanted["steps"]:
        part = _part(parts, step["part"])
        asked = _definition(part, step["part"], step["signature"])
        for alias, value in step["takes"].items():
            if value not in known:
                known[value] = _info(asked.inputs, alias, step)
                message.inputs[value].CopyFrom(_renamed(known[value], value))
        for alias, value in step["gives"].items():
            known[value] = _info(asked.outputs, alias, step)
        feeds = {asked.inputs[alias].name: value for alias, value in step["takes"].items()}
        fetches = {asked.outputs[alias].name: value for alias, value in step["gives"].items()}
        steps.append(Step(part, feeds, fetches))
    outputs = {
        alias: [of] if isinstance(of, str) else of for alias, of in wanted["outputs"].items()
    }
    for alias, of in outputs.items():
        if unknown := [value for value in of if value not in known] or ["nothing"] * (not of):
            raise InvalidArgument(
                f"output {alias} of {name} is made of {unknown[0]}, which is not there"
            )
        message.outputs[alias].CopyFrom(_renamed(known[of[0]], f"{name}:{alias}"))
    return Pipeline(steps, outputs, message.SerializeToString(deterministic=True))


def _own(parts: Mapping[str, Servable], part: str, name: str) -> Pipeline:
    """A signature of a part, as one of the composite."""
    message = _definition(parts[part], part, name)
    feeds = {info.name: alias for alias, info in message.inputs.items()}
    fetches = {info.name: f"{alias} given" for alias, info in message.outputs.items()}
    for alias, info in message.inputs.items():
        info.name = alias
    for alias, info in message.outputs.items():
        info.name = f"{part}/{name}:{alias}"
    outputs = {alias: [f"{alias} given"] for alias in message.outputs}
    definition = message.SerializeToString(deterministic=True)
    return Pipeline([Step(parts[part], feeds, fetches)], outputs, definition)


def _signatures_of(parts: Mapping[str, Servable]) -> Iterator[tuple[str, str]]:
    for part, servable in parts.items():
        for name, signature in servable.signatures.items():
            if signature.outputs and not signature.defaults:
                yield part, name


def _part(parts: Mapping[str, Servable], name: str) -> Servable:
    if name not in parts:
        raise InvalidArgument(f"there is no part {name}; there are {', '.join(parts)}")
    return parts[name]


def _definition(part: Servable, name: str, signature: str) -> SignatureDef:
    if signature not in part.signature_defs:
        there = ", ".join(part.signature_defs)
        raise InvalidArgument(f"part {name} has no signature {signature}; it has {there}")
    return SignatureDef.FromString(part.signature_defs[signature])


def _info(infos: Mapping[str, TensorInfo], alias: str, step: Mapping[str, Any]) -> TensorInfo:
    if alias not in infos:
        where = f"signature {step['signature']} of part {step['part']}"
        raise InvalidArgument(f"{where} has no {alias}; it has {', '.join(sorted(infos))}")
    return infos[alias]


def _renamed(info: TensorInfo, name: str) -> TensorInfo:
    return TensorInfo(name=name, dtype=info.dtype, tensor_shape=info.tensor_shape)


def _mean(values: Sequence[np.ndarray]) -> np.ndarray:
    return values[0] if len(values) == 1 else np.mean(values, axis=0, dtype=values[0].dtype)


def _left_s(ends_s: float | None) -> float | None:
    """How much time the next step has."""
    if ends_s is None:
        return None
    left_s = ends_s - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded("the time was over before the last step")
    return left_s
