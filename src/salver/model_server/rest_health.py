"""``/healthz`` and ``/readyz``: what probes ask a server over HTTP.

``/healthz`` says that the process is alive, whatever its models do, so that nobody restarts a
server for a model that loads slowly.  ``/readyz`` says whether to send it requests, and what it is
waiting for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

from salver.model_server.readiness import Phase, Readiness
from salver.wire.http1_messages import HttpAnswer, HttpHandler, HttpRequest, HttpResponse

JSON: Final = "application/json"
TEXT: Final = "text/plain"

# A probe's answer is true for a moment only.
HEADERS: Final = (("Cache-Control", "no-store"),)


class HealthEndpoints:
    """A handler around another: answers the probes, and hands on everything else."""

    def __init__(self, readiness: Readiness, handler: HttpHandler) -> None:
        self._readiness = readiness
        self._handler = handler
        self._answers: Mapping[str, Callable[[], HttpResponse]] = {
            "/healthz": self._alive,
            "/readyz": self._ready,
        }

    def answer(self, request: HttpRequest) -> HttpAnswer:
        """The answer to one request: a probe's at once, else the other handler's."""
        if request.method not in ("GET", "HEAD"):
            return self._handler(request)
        answer = self._answers.get(request.target.partition("?")[0])
        return self._handler(request) if answer is None else answer()

    def _alive(self) -> HttpResponse:
        return HttpResponse(200, b"ok\n", TEXT, HEADERS)

    def _ready(self) -> HttpResponse:
        phase = self._readiness.phase
        waiting_for = self._readiness.waiting_for() if phase is Phase.STARTING else []
        body = json.dumps({"state": phase.value, "waiting_for": waiting_for}) + "\n"
        status = 200 if self._readiness.is_ready() else 503
        return HttpResponse(status, body.encode(), JSON, HEADERS)
