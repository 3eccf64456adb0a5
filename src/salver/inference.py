"""The verbs: predict, classify, regress and multi-inference.

Each takes a servable and values, checks them against a signature, runs once and returns values.
The checks, their order and their texts are TensorFlow Serving's: clients match on them.
No verb looks a servable up, and none knows how a request was encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from salver.apis.requests import ClassifiedExample, InferenceTask, PredictRequest
from salver.dtypes import DType
from salver.errors import FailedPrecondition, Internal, InvalidArgument, Unimplemented
from salver.servables.servable import PreparedRun, Servable
from salver.signature import (
    CLASSIFY_METHOD,
    DEFAULT_SERVING_SIGNATURE,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Signature,
)

_PREDICT_METHODS: Final = (PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD)


def predict(
    servable: Servable,
    request: PredictRequest,
    *,
    timeout_s: float | None = None,
    check_method_name: bool = False,
) -> dict[str, np.ndarray]:
    """Run one signature; the outputs asked for, or all, by alias.

    Raises:
        FailedPrecondition: no such signature.
        Internal: ``check_method_name`` is on and the signature is for another API.
        InvalidArgument: inputs or output filter do not fit the signature.
        ServingError: what the runtime says.
    """
    name = request.signature_name or DEFAULT_SERVING_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise FailedPrecondition(f'Serving signature key "{name}" not found.')
    if check_method_name and signature.method_name not in _PREDICT_METHODS:
        expected = ", ".join(_PREDICT_METHODS)
        raise Internal(
            f"Expected prediction signature method_name to be one of {{{expected}}}. "
            f"Was: {signature.method_name}"
        )
    feeds = _predict_feeds(signature, request.inputs)
    aliases = _fetched_aliases(signature, request.output_filter)
    fetches = [signature.outputs[alias].name for alias in aliases]
    return dict(zip(aliases, servable.run(feeds, fetches, timeout_s=timeout_s), strict=True))


class PredictPlan:
    """What ``predict`` works out from a signature and the names in a request, to be used again.

    The same names at the same signature mean the same plan, whatever the tensors hold.
    """

    __slots__ = (
        "_feeds",
        "_is_as_sent",
        "_prepared",
        "_servable",
        "_sources",
        "aliases",
        "fetches",
        "name",
        "signature",
    )

    def __init__(
        self,
        name: str,
        signature: Signature,
        aliases: Sequence[str],
        output_filter: Sequence[str],
    ) -> None:
        """Plan for a request that ``predict`` found in order, with inputs in this order."""
        self.name = name
        self.signature = signature
        self.aliases = tuple(_fetched_aliases(signature, output_filter))
        self.fetches = tuple(signature.outputs[alias].name for alias in self.aliases)
        # In the signature's order, as ``predict`` has it: TensorFlow keeps an executor per order.
        self._feeds = tuple(info.name for info in signature.inputs.values())
        self._sources = tuple(
            aliases.index(alias) if alias in aliases else signature.defaults[alias]
            for alias in signature.inputs
        )
        self._is_as_sent = all(
            isinstance(at, int) and at == i for i, at in enumerate(self._sources)
        )
        self._servable: Servable | None = None
        self._prepared: PreparedRun | None = None

    def run(
        self, servable: Servable, tensors: Sequence[np.ndarray], timeout_s: float | None
    ) -> list[np.ndarray]:
        """Run once; the outputs in the order of ``aliases``."""
        prepared = self._prepared
        if prepared is None or self._servable is not servable:
            prepared = self._prepared = servable.prepare(self._feeds, self.fetches)
            self._servable = servable
        if self._is_as_sent:
            return prepared(tensors, timeout_s)
        return prepared(
            [tensors[at] if isinstance(at, int) else at for at in self._sources], timeout_s
        )


def _predict_feeds(signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    expected = signature.inputs
    if len(inputs) > len(expected) or (len(inputs) < len(expected) and not signature.defaults):
        raise InvalidArgument(
            f"input size does not match signature: {len(inputs)}!={len(expected)} "
            f"len({{{_listed(inputs)}}}) != len({{{_listed(expected)}}}). "
            f"Sent extra: {{{_listed(set(inputs) - set(expected))}}}. "
            f"Missing but required: {{{_listed(set(expected) - set(inputs))}}}."
        )
    feeds: dict[str, np.ndarray] = {}
    used = 0
    for alias, info in expected.items():
        if alias in inputs:
            feeds[info.name] = _decoded(inputs, alias)
            used += 1
        elif alias in signature.defaults:
            feeds[info.name] = signature.defaults[alias]
        else:
            raise InvalidArgument(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and "
                "no default value provided. Inputs expected to be in the request "
                f"{{{_listed(expected)}}}, or default input alias set: "
                f"{_listed(signature.defaults)}"
            )
    if used != len(inputs):
        used_aliases = [alias for alias in expected if alias in inputs]
        raise InvalidArgument(
            f"Inputs contains invalid name. Used request inputs: {_listed(used_aliases)}, "
            f"request input: {_listed(inputs)}"
        )
    return feeds


def _decoded(inputs: Mapping[str, np.ndarray], alias: str) -> np.ndarray:
    try:
        return inputs[alias]
    except InvalidArgument as error:
        raise InvalidArgument(f"tensor parsing error: {alias}") from error


def _fetched_aliases(signature: Signature, output_filter: Sequence[str]) -> Sequence[str]:
    if not output_filter:
        return list(signature.outputs)
    seen = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise InvalidArgument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{_listed(signature.outputs)}}}."
            )
        if alias in seen:
            raise InvalidArgument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    # In the signature's order: TensorFlow keeps an executor per order of the same outputs.
    return [alias for alias in signature.outputs if alias in seen]


def _listed(names: Iterable[str]) -> str:
    return ",".join(sorted(names))


@dataclass(frozen=True, slots=True)
class _ExampleCall:
    """A signature over serialized Examples: the tensor they feed and the tensors to fetch."""

    feed: str
    classes: str | None = None
    scores: str | None = None
    values: str | None = None

    @property
    def fetches(self) -> list[str]:
        named = (self.classes, self.scores, self.values)
        return [name for name in named if name is not None]


def classify(
    servable: Servable,
    signature_name: str,
    examples: Sequence[bytes],
    *,
    timeout_s: float | None = None,
    check_method_name: bool = False,
) -> list[ClassifiedExample]:
    """Classes and scores of each serialized ``tf.Example``.

    Raises:
        InvalidArgument: no such signature, it does not classify, or its answer has another shape.
        ServingError: what the runtime says.
    """
    signature = _example_signature(servable, signature_name)
    call = _classify_call(signature, check_method_name=check_method_name)
    fetched = _run_examples(servable, call.fetches, {call.feed}, examples, timeout_s)
    return _classified(call, fetched, len(examples))


def regress(
    servable: Servable,
    signature_name: str,
    examples: Sequence[bytes],
    *,
    timeout_s: float | None = None,
    check_method_name: bool = False,
) -> list[float]:
    """One value for each serialized ``tf.Example``.

    Raises:
        InvalidArgument: no such signature, it does not regress, or its answer has another shape.
        ServingError: what the runtime says.
    """
    signature = _example_signature(servable, signature_name)
    call = _regress_call(signature, check_method_name=check_method_name)
    fetched = _run_examples(servable, call.fetches, {call.feed}, examples, timeout_s)
    return _regressed(call, fetched, len(examples))


def multi_inference(
    servable: Servable,
    tasks: Sequence[InferenceTask],
    examples: Sequence[bytes],
    *,
    timeout_s: float | None = None,
    check_method_name: bool = False,
) -> list[list[ClassifiedExample] | list[float]]:
    """Several classify and regress signatures over the same examples, in one run.

    Raises:
        InvalidArgument: a task names another model, no or an evaluated signature, or does not fit.
        Unimplemented: a task is neither classify nor regress.
        ServingError: what the runtime says.
    """
    calls = _task_calls(servable, tasks, check_method_name=check_method_name)
    fetches = sorted({name for call in calls for name in call.fetches})
    fetched = _run_examples(servable, fetches, {call.feed for call in calls}, examples, timeout_s)
    return [
        _regressed(call, fetched, len(examples))
        if call.values is not None
        else _classified(call, fetched, len(examples))
        for call in calls
    ]


def _task_calls(
    servable: Servable, tasks: Sequence[InferenceTask], *, check_method_name: bool
) -> list[_ExampleCall]:
    calls: list[_ExampleCall] = []
    evaluated = set()
    for task in tasks:
        spec = task.model_spec
        if not spec.name:
            raise InvalidArgument("Found ModelSpec with an empty model name.")
        if spec.name != tasks[0].model_spec.name:
            raise InvalidArgument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = spec.signature_name or DEFAULT_SERVING_SIGNATURE
        if name in evaluated:
            raise InvalidArgument(f"Duplicate evaluation of signature: {name}")
        evaluated.add(name)
        signature = servable.signatures.get(name)
        if signature is None:
            raise InvalidArgument(f"Requested signature not found in model graph: {name}")
        if task.method_name == CLASSIFY_METHOD:
            calls.append(_classify_call(signature, check_method_name=check_method_name))
        elif task.method_name == REGRESS_METHOD:
            calls.append(_regress_call(signature, check_method_name=check_method_name))
        else:
            raise Unimplemented(f"Unsupported signature method_name: {task.method_name}")
    return calls


def _example_signature(servable: Servable, name: str) -> Signature:
    name = name or DEFAULT_SERVING_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise InvalidArgument(f"No signature was found with the name: {name}")
    return signature


def _classify_call(signature: Signature, *, check_method_name: bool) -> _ExampleCall:
    if check_method_name and signature.method_name != CLASSIFY_METHOD:
        raise InvalidArgument(
            f"Expected classification signature method_name to be {CLASSIFY_METHOD}. "
            f"Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise InvalidArgument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise InvalidArgument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise InvalidArgument(
            f"No classification inputs found in SignatureDef: {signature.debug_string()}"
        )
    classes, scores = signature.outputs.get("classes"), signature.outputs.get("scores")
    if classes is None and scores is None:
        raise InvalidArgument(
            'Expected classification signature outputs to contain at least one of "classes" or '
            f'"scores". Signature was: {signature.debug_string()}'
        )
    return _ExampleCall(
        feed=signature.inputs["inputs"].name,
        classes=None if classes is None else classes.name,
        scores=None if scores is None else scores.name,
    )


def _regress_call(signature: Signature, *, check_method_name: bool) -> _ExampleCall:
    if check_method_name and signature.method_name != REGRESS_METHOD:
        raise InvalidArgument(
            f"Expected regression signature method_name to be {REGRESS_METHOD}. "
            f"Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise InvalidArgument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise InvalidArgument("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise InvalidArgument(
            f"No regression inputs found in SignatureDef: {signature.debug_string()}"
        )
    if "outputs" not in signature.outputs:
        raise InvalidArgument(
            f"No regression outputs found in SignatureDef: {signature.debug_string()}"
        )
    return _ExampleCall(
        feed=signature.inputs["inputs"].name, values=signature.outputs["outputs"].name
    )


def _run_examples(
    servable: Servable,
    fetches: Sequence[str],
    feeds: set[str],
    examples: Sequence[bytes],
    timeout_s: float | None,
) -> dict[str, np.ndarray]:
    if not examples:
        raise InvalidArgument("Input is empty.")
    batch = np.empty(len(examples), object)
    batch[:] = examples
    results = servable.run(dict.fromkeys(sorted(feeds), batch), fetches, timeout_s=timeout_s)
    return dict(zip(fetches, results, strict=True))


def _classified(
    call: _ExampleCall, fetched: Mapping[str, np.ndarray], count: int
) -> list[ClassifiedExample]:
    classes = None if call.classes is None else fetched[call.classes]
    scores = None if call.scores is None else fetched[call.scores]
    if classes is not None:
        _check_class_tensor("classes", classes, DType.STRING, count)
    if scores is not None:
        _check_class_tensor("scores", scores, DType.FLOAT, count)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise InvalidArgument(
            "Tensors class and score should match in dim_size(1). "
            f"Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    given = classes if classes is not None else scores
    width = 0 if given is None else given.shape[1]
    label_rows = [[b""] * width] * count if classes is None else classes.tolist()
    score_rows = [[0.0] * width] * count if scores is None else scores.tolist()
    return [
        ClassifiedExample(labels, row) for labels, row in zip(label_rows, score_rows, strict=True)
    ]


def _check_class_tensor(alias: str, tensor: np.ndarray, dtype: DType, count: int) -> None:
    if tensor.ndim != 2:
        raise InvalidArgument(
            f"Expected Tensor shape: [batch_size num_classes] but got {_shape(tensor)}"
        )
    if tensor.dtype != dtype.numpy:
        raise InvalidArgument(
            f"Expected {alias} Tensor of DT_{dtype.name}. Got: {_type_name(tensor)}"
        )
    if len(tensor) != count:
        raise InvalidArgument(f"Expected {alias} output batch size of {count}. Got: {len(tensor)}")


def _regressed(call: _ExampleCall, fetched: Mapping[str, np.ndarray], count: int) -> list[float]:
    values = fetched[call.values or ""]
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 1):
        raise InvalidArgument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{_shape(values)}"
        )
    if len(values) != count:
        raise InvalidArgument(
            f"Input batch size did not match output batch size: {count} vs. {len(values)}"
        )
    if values.dtype != DType.FLOAT.numpy:
        raise InvalidArgument(f"Expected output Tensor of DT_FLOAT.  Got: {_type_name(values)}")
    flat: list[float] = values.reshape(-1).tolist()
    return flat


def _shape(tensor: np.ndarray) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"


def _type_name(tensor: np.ndarray) -> str:
    return f"DT_{DType.of(tensor.dtype).name}"
