"""A version that has no signature, and what becomes of it."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from salver.core.servable_id import ServableId
from salver.errors import FailedPrecondition
from salver.model_server.askable import Askable
from salver.model_server.rehearsal import Candidate, Pace


def candidate(*signatures: str) -> Candidate:
    servable = SimpleNamespace(signatures=dict.fromkeys(signatures))
    return Candidate(ServableId("m", 1), Path("/models/m/1"), servable)


NONE = [(), ("__saved_model_init_op",)]


@pytest.mark.parametrize("signatures", NONE)
def test_a_version_without_a_signature_is_refused_where_one_is_required(signatures):
    """TensorFlow's own signature for its loader does not count; the error says what helps."""
    with pytest.raises(
        FailedPrecondition, match=r"/models/m/1 has no signature.*signatures=\.\.\."
    ):
        Askable(required=True)(candidate(*signatures), Pace())


@pytest.mark.parametrize("signatures", NONE)
def test_elsewhere_it_serves_and_the_log_says_so(signatures, caplog: pytest.LogCaptureFixture):
    """As in TensorFlow Serving, which says nothing."""
    with caplog.at_level(logging.WARNING):
        Askable(required=False)(candidate(*signatures), Pace())

    assert "{name: m version: 1}: /models/m/1 has no signature" in caplog.text


def test_one_signature_is_enough(caplog: pytest.LogCaptureFixture):
    """Whatever its name."""
    Askable(required=True)(candidate("__saved_model_init_op", "call"), Pace())

    assert not caplog.records
