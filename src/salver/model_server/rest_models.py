"""``GET /v1/models``: every model with its versions and labels, for people and scripts.

TensorFlow Serving has no such list; the words inside are those of its status answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import json_format

from salver.apis.requests import VersionStatus
from salver.model_server.model_config import ModelConfig, model_message
from salver.model_server.server_core import ModelView, ServerCore
from salver.wire.http1_messages import HttpAnswer, HttpHandler, HttpRequest, HttpResponse

JSON: Final = "application/json"
JSON_INDENT: Final = 1

PATH: Final = "/v1/models"

# A list is true for a moment only.
HEADERS: Final = (("Cache-Control", "no-store"),)


class ModelList:
    """A handler around another: answers ``GET /v1/models``, and hands on everything else."""

    def __init__(self, core: ServerCore, handler: HttpHandler) -> None:
        self._core = core
        self._handler = handler

    def answer(self, request: HttpRequest) -> HttpAnswer:
        """Answer one request."""
        if request.target == PATH and request.method in ("GET", "HEAD"):
            return self._list()
        return self._handler(request)

    async def _list(self) -> HttpResponse:
        # Not on the loop: a thousand models take a while to write down.
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(None, models_page, self._core)
        return HttpResponse(200, body, JSON, HEADERS)


def models_page(core: ServerCore) -> bytes:
    """The list as it is now."""
    return json_text(
        {"config_revision": core.revision(), "models": [model_json(v) for v in core.views()]}
    )


def model_json(view: ModelView) -> dict[str, Any]:
    """One model; a label that waits for its version shows both."""
    body: dict[str, Any] = {
        "name": view.name,
        "configured": view.config is not None,
        "model_version_status": [_status_json(status) for status in view.versions],
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


def _status_json(status: VersionStatus) -> dict[str, Any]:
    return {
        "version": str(status.version),
        "state": status.state,
        "status": {"error_code": status.error_code.name, "error_message": status.error_message},
    }


def _as_text(labels: Mapping[str, int]) -> dict[str, str]:
    """Versions as text, as everywhere in JSON: they may have more digits than a double."""
    return {label: str(version) for label, version in labels.items()}
