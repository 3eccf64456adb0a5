"""``GET /v1/models``: every model with its versions and labels, for people and scripts.

TensorFlow Serving has no such list; the words inside are those of its status answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf import json_format

from salver.apis.requests import VersionStatus
from salver.batching.sameness import Verdict
from salver.core.servable_id import ServableId
from salver.model_server.model_config import ModelConfig, model_message
from salver.model_server.server_core import ModelView, ServerCore
from salver.wire.http1_messages import HttpAnswer, HttpHandler, HttpRequest, HttpResponse

JSON: Final = "application/json"
JSON_INDENT: Final = 1

PATH: Final = "/v1/models"

# A list is true for a moment only.
HEADERS: Final = (("Cache-Control", "no-store"),)


VerdictsOf = Callable[[ServableId], Mapping[str, Verdict]]


def no_verdicts(_servable_id: ServableId) -> Mapping[str, Verdict]:
    """Nothing is batched, and there is nothing to say about it."""
    return {}


class ModelList:
    """A handler around another: answers ``GET /v1/models``, and hands on everything else."""

    def __init__(
        self, core: ServerCore, handler: HttpHandler, verdicts: VerdictsOf = no_verdicts
    ) -> None:
        """``verdicts`` says of each version which of its signatures are batched, and why."""
        self._core = core
        self._handler = handler
        self._verdicts = verdicts

    def answer(self, request: HttpRequest) -> HttpAnswer:
        """Answer one request."""
        if request.target == PATH and request.method in ("GET", "HEAD"):
            return self._list()
        return self._handler(request)

    async def _list(self) -> HttpResponse:
        # Not on the loop: a thousand models take a while to write down.
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(None, models_page, self._core, self._verdicts)
        return HttpResponse(200, body, JSON, HEADERS)


def models_page(core: ServerCore, verdicts: VerdictsOf = no_verdicts) -> bytes:
    """The list as it is now."""
    models = [model_json(view, verdicts) for view in core.views()]
    return json_text({"config_revision": core.revision(), "models": models})


def model_json(view: ModelView, verdicts: VerdictsOf = no_verdicts) -> dict[str, Any]:
    """One model; a label that waits for its version shows both."""
    body: dict[str, Any] = {
        "name": view.name,
        "configured": view.config is not None,
        "model_version_status": [
            _status_json(status, verdicts(ServableId(view.name, status.version)))
            for status in view.versions
        ],
        "version_labels": _as_text(view.labels),
    }
    if view.awaited_labels:
        body["awaited_version_labels"] = _as_text(view.awaited_labels)
    return body


def config_json(config: ModelConfig) -> dict[str, Any]:
    """One model's configuration, in the names of its message."""
    return json_format.MessageToDict(model_message(config), preserving_proto_field_name=True)


def json_text(body: Mapping[str, Any]) -> bytes:
    """A body as it is sent."""
    return json.dumps(body, indent=JSON_INDENT).encode() + b"\n"


def _status_json(status: VersionStatus, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "version": str(status.version),
        "state": status.state,
        "status": {"error_code": status.error_code.name, "error_message": status.error_message},
    }
    if verdicts:
        body["batching"] = {
            name: {"batched": verdict.is_batchable, "reason": verdict.reason}
            for name, verdict in verdicts.items()
        }
    return body


def _as_text(labels: Mapping[str, int]) -> dict[str, str]:
    """Versions as text, as everywhere in JSON: they may have more digits than a double."""
    return {label: str(version) for label, version in labels.items()}
