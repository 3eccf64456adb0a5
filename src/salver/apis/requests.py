"""What the doors ask and what they are told, free of any encoding.

A codec turns bytes into these values and back; the verbs read and return them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from salver.errors import Code


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which servable a request means, in the client's words.

    At most one of ``version`` and ``version_label`` is set; neither means the latest loaded one.
    """

    name: str
    version: int | None = None
    version_label: str | None = None
    signature_name: str = ""


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """``inputs`` may decode a tensor only when it is looked up, and raise InvalidArgument then."""

    inputs: Mapping[str, np.ndarray]
    signature_name: str = ""
    output_filter: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ClassifiedExample:
    """The classes of one example, best or first as the model gives them."""

    labels: Sequence[bytes]
    scores: Sequence[float]


@dataclass(frozen=True, slots=True)
class InferenceTask:
    """One part of a MultiInference: a signature to run and how to read its answer."""

    model_spec: ModelSpec
    method_name: str


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """What ``GetModelStatus`` says of one version.

    ``state`` is one of START, LOADING, AVAILABLE, UNLOADING, END.
    """

    version: int
    state: str
    error_code: Code = Code.OK
    error_message: str = ""
