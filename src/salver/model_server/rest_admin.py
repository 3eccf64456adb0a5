"""The admin API: the configuration of a running server, read and changed one model at a time.

    GET    /v1/config                 all models, and the revision
    GET    /v1/config/models/NAME     one model
    PUT    /v1/config/models/NAME     add or replace one model
    DELETE /v1/config/models/NAME     take one model out
    GET    /v1/status                 what became of every version

A change names the revision it was made from (``If-Match``), so that of two writers who read the
same one, the second is told.  A change is answered when it holds; loads follow on their own.
Whoever can reach the address may change what is served: it is opened on request only, and to this
machine only unless asked twice.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

from google.protobuf import json_format

from salver.errors import InvalidArgument, ServingError
from salver.model_server.model_config import ModelConfig, faults, model_config
from salver.model_server.rest_api import HTTP_STATUS
from salver.model_server.rest_models import JSON, config_json, json_text, models_page
from salver.model_server.server_core import RevisionMismatch, ServerCore
from salver.protos import config_pb2
from salver.wire.http1_messages import HttpRequest, HttpResponse

logger = logging.getLogger(__name__)

CONFIG: Final = "/v1/config"
STATUS: Final = "/v1/status"
MODEL: Final = re.compile(r"/v1/config/models/([^/]+)", re.ASCII)
ENTITY_TAG: Final = re.compile(r'"([^"]*)"')
HOST: Final = re.compile(
    r"(?:(?P<name>[a-z0-9.-]+)|\[(?P<address>[0-9a-f:.]+)\])(?::[0-9]*)?|", re.ASCII | re.IGNORECASE
)

MAX_QUOTED: Final = 80
"""Characters of a header that an error repeats."""

MAX_BODY_BYTES: Final = 1 << 20

NO_STORE: Final = (("Cache-Control", "no-store"),)


class AdminError(Exception):
    """An answer other than the one asked for."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class AdminApi:
    """Answers the requests of the admin address; ``handle`` is called on the event loop."""

    def __init__(self, core: ServerCore, *, checks_host: bool = True) -> None:
        """``checks_host``: answer only requests that name this machine.

        A web page can make a browser on this machine send requests here under a name of its own.
        """
        self._core = core
        self._checks_host = checks_host

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer one request."""
        try:
            return await self._answer(request)
        except AdminError as error:
            return _error(error.status, error.text)
        except RevisionMismatch as error:
            return _error(HTTPStatus.PRECONDITION_FAILED, error.message)
        except ServingError as error:
            return _error(HTTP_STATUS[error.code], error.message)

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        if self._checks_host and not names_this_machine(request.headers.get("host", "")):
            raise AdminError(HTTPStatus.FORBIDDEN, "the Host of the request is not this machine")
        path = _path_of(request.target)
        if path in (CONFIG, STATUS):
            _allow(request, "GET", "HEAD")
            page = self._status if path == STATUS else self._config
            # Not on the loop: a thousand models take a while to write down.
            return await asyncio.get_running_loop().run_in_executor(None, page)
        match = MODEL.fullmatch(path)
        if match is None:
            raise AdminError(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")
        _allow(request, "GET", "HEAD", "PUT", "DELETE")
        return await self._model(request, _decoded(match[1]))

    def _status(self) -> HttpResponse:
        return HttpResponse(HTTPStatus.OK, models_page(self._core), JSON, NO_STORE)

    def _config(self) -> HttpResponse:
        revision = self._core.revision()
        models = [config_json(config) for config in self._core.models().values()]
        return _tagged(HTTPStatus.OK, revision, {"revision": revision, "models": models})

    async def _model(self, request: HttpRequest, name: str) -> HttpResponse:
        revision = self._core.revision()  # first: what is read after it is never older
        known = self._core.models().get(name)
        if request.method in ("GET", "HEAD"):
            if known is None:
                raise AdminError(HTTPStatus.NOT_FOUND, f"no model {name} is configured")
            return _tagged(HTTPStatus.OK, revision, _one(known, revision))
        revision = _required_revision(request)
        config = None
        if request.method == "PUT":
            config = model_config(self._checked(_model_message(name, request.body)))
        edit = partial(self._core.edit, name, config, if_revision=revision)
        change = await asyncio.get_running_loop().run_in_executor(None, edit)
        logger.info("%s %s: configuration %s", request.method, request.target, change.revision)
        self._core.look_soon(_nobody_waits)
        status = HTTPStatus.CREATED if name in change.new else HTTPStatus.OK
        return _tagged(status, change.revision, _one(config, change.revision))

    def _checked(self, message: config_pb2.ModelConfig) -> config_pb2.ModelConfig:
        for fault in faults([message], self._core.platforms()):
            raise fault.error
        return message


def _one(config: ModelConfig | None, revision: str) -> dict[str, Any]:
    return {"revision": revision, "model": None if config is None else config_json(config)}


def names_this_machine(host: str) -> bool:
    """Whether a Host header names the machine itself, which no name of the outside resolves to."""
    match = HOST.fullmatch(host)
    if match is None:
        return False
    name = (match["name"] or match["address"] or "").lower()
    if name in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _required_revision(request: HttpRequest) -> str:
    given = request.headers.get("if-match", "")
    match = ENTITY_TAG.fullmatch(given.strip())
    if match is None:
        found = f"there was {given[:MAX_QUOTED]!r}" if given else "there was none"
        raise AdminError(
            HTTPStatus.PRECONDITION_REQUIRED,
            'a change needs the revision that it was made from: If-Match: "REVISION", as GET '
            f"{CONFIG} gives it; {found}",
        )
    return match[1]


def _model_message(name: str, body: bytes) -> config_pb2.ModelConfig:
    """A ModelConfig in JSON; without a name it gets that of the path, without a platform ours."""
    message = config_pb2.ModelConfig()
    try:
        document = json.loads(body)
        json_format.ParseDict(document, message)
    except (TypeError, ValueError, RecursionError, json_format.ParseError) as error:
        raise InvalidArgument(f"the body is no ModelConfig in JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument("the body is no ModelConfig in JSON: it is no object")
    if message.name not in ("", name):
        raise InvalidArgument(f"the body is about {message.name}, and the path about {name}")
    message.name = name
    if not message.model_platform and not message.model_type:
        message.model_type = config_pb2.TENSORFLOW
    return message


def _path_of(target: str) -> str:
    try:
        return urlsplit(target).path
    except ValueError as error:
        raise AdminError(HTTPStatus.BAD_REQUEST, f"the target makes no sense: {error}") from None


def _decoded(raw: str) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise AdminError(HTTPStatus.BAD_REQUEST, "the name of the model is not UTF-8") from None


def _allow(request: HttpRequest, *methods: str) -> None:
    if request.method not in methods:
        raise AdminError(
            HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} is none of {', '.join(methods)}"
        )


def _tagged(status: HTTPStatus, revision: str, body: Mapping[str, Any]) -> HttpResponse:
    headers = (("ETag", f'"{revision}"'), *NO_STORE)
    return HttpResponse(int(status), json_text(body), JSON, headers)


def _error(status: int, text: str) -> HttpResponse:
    return HttpResponse(int(status), json_text({"error": text}), JSON, NO_STORE)


def _nobody_waits() -> None:
    """What a look calls that nobody waits for."""
