"""The admin API: read, changed by compare-and-set, and open to this machine only."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from core_house import CoreHouse, model
from salver.errors import InvalidArgument, PermissionDenied, Unavailable
from salver.model_server.admin_door import open_admin_door, read_address
from salver.model_server.rest_admin import AdminApi
from salver.model_server.rest_models import ModelList, models_page
from salver.model_server.server_core import LabelRules
from salver.wire.http1_messages import HttpRequest, HttpResponse

N = {"base_path": "/models/n", "model_version_policy": {"all": {}}}


class Admin:
    """The API over a core with one model; a request is one call."""

    def __init__(self) -> None:
        self.house = CoreHouse(rules=LabelRules(follow_loads=True))
        self.house.add("m", 1)
        self.house.serve(model("m"))
        self.api = AdminApi(self.house.core)

    def ask(
        self, method: str, path: str, body: Any = None, revision: str | None = None, **headers: str
    ) -> HttpResponse:
        named = {"host": "localhost:8502", **headers}
        if revision is not None:
            named["if-match"] = f'"{revision}"'
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return asyncio.run(self.api.handle(HttpRequest(method, path, named, content)))

    def names(self) -> list[str]:
        return list(self.house.core.names())


@pytest.fixture
def admin() -> Admin:
    return Admin()


def test_the_whole_configuration_is_read_with_its_revision(admin: Admin):
    """The ETag is what a change has to name."""
    answer = admin.ask("GET", "/v1/config")

    assert answer.status == 200
    assert dict(answer.headers)["ETag"] == '"test-1"'
    assert json.loads(answer.body) == {
        "revision": "test-1",
        "models": [
            {
                "name": "m",
                "base_path": "/models/m",
                "model_platform": "tensorflow",
                "model_version_policy": {"all": {}},
            }
        ],
    }


def test_a_model_is_added_read_replaced_and_deleted(admin: Admin):
    """Each change answers with the next revision."""
    added = admin.ask("PUT", "/v1/config/models/n", N, "test-1")
    read = admin.ask("GET", "/v1/config/models/n")
    replaced = admin.ask("PUT", "/v1/config/models/n", {"base_path": "/other/n"}, "test-2")
    deleted = admin.ask("DELETE", "/v1/config/models/n", revision="test-3")

    assert [a.status for a in (added, read, replaced, deleted)] == [201, 200, 200, 200]
    assert json.loads(read.body)["model"] == {
        "name": "n",
        "model_platform": "tensorflow",
        **N,
    }
    assert json.loads(deleted.body) == {"revision": "test-4", "model": None}
    assert dict(deleted.headers)["ETag"] == '"test-4"'
    assert admin.names() == ["m"]


def test_a_body_is_a_model_config_in_json(admin: Admin):
    """In the names of the message or in JSON's; numbers of 64 bits may be text."""
    body = {
        "name": "n",
        "basePath": "/models/n",
        "model_version_policy": {"specific": {"versions": ["3", 4]}},
        "version_labels": {"stable": "3"},
    }
    admin.ask("PUT", "/v1/config/models/n", body, "test-1")

    config = admin.house.core.models()["n"]
    assert config.policy.versions == (3, 4)
    assert config.version_labels == {"stable": 3}


@pytest.mark.parametrize("given", [None, "", "*", "test-1", 'W/"test-1"', '"a", "b"'])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_change_without_a_revision_is_refused(admin: Admin, method: str, given: str | None):
    """What would change whatever is there is not offered."""
    headers = {} if given is None else {"if-match": given}

    answer = admin.ask(method, "/v1/config/models/m", N, **headers)

    assert answer.status == 428
    error = json.loads(answer.body)["error"]
    assert "If-Match" in error
    assert error.endswith(f"there was {given!r}" if given else "there was none")


def test_a_change_of_an_older_revision_is_refused(admin: Admin):
    """Of two writers who read the same, the second reads again."""
    first = admin.ask("PUT", "/v1/config/models/n", N, "test-1")
    second = admin.ask("PUT", "/v1/config/models/o", N, "test-1")

    assert (first.status, second.status) == (201, 412)
    assert admin.names() == ["m", "n"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/v1/nothing", None, 404, "nothing at /v1/nothing"),
        ("GET", "/v1/config/models/x", None, 404, "no model x is configured"),
        ("DELETE", "/v1/config/models/x", None, 404, "no model x is configured"),
        ("POST", "/v1/config", None, 405, "POST is none of GET, HEAD"),
        ("POST", "/v1/config/models/m", None, 405, "POST is none of GET, HEAD, PUT, DELETE"),
        ("PUT", "/v1/config/models/%ff", N, 400, "not UTF-8"),
        ("PUT", "/v1/config/models/n", b"{", 400, "no ModelConfig in JSON"),
        ("PUT", "/v1/config/models/n", {"nmae": "n"}, 400, "no ModelConfig in JSON"),
        ("PUT", "/v1/config/models/n", [], 400, "no ModelConfig in JSON"),
        ("PUT", "/v1/config/models/n", b"[" * 100_000, 400, "no ModelConfig in JSON"),
        ("PUT", "/v1/config/models/n", {**N, "name": "o"}, 400, "about o, and the path about n"),
        ("PUT", "/v1/config/models/n", {"base_path": "n"}, 400, "absolute path or URI"),
        ("PUT", "/v1/config/models/n", {"base_path": "hdfs://h/n"}, 501, "there are s3://"),
        ("PUT", "/v1/config/models/n", {"base_path": "file://h/n"}, 400, "it would be file:///n"),
        ("PUT", "/v1/config/models/a%0Ab", {**N}, 400, r"'a\nb' has control characters"),
        ("GET", "//[", None, 400, "the target makes no sense"),
        ("PUT", "/v1/config/models/n", {**N, "model_platform": "x"}, 400, "unsupported platform x"),
        ("PUT", "/v1/config/models/n", {**N, "logging_config": {}}, 400, "request-logger-creator"),
    ],
)
def test_what_cannot_be_done_is_told(
    admin: Admin, method: str, path: str, body: Any, status: int, text: str
):
    """And nothing has changed."""
    answer = admin.ask(method, path, body, "test-1")

    assert answer.status == status
    assert text in json.loads(answer.body)["error"]
    assert admin.house.core.revision() == "test-1"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:1", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:1", 200),
        ("", 200),
        ("evil.test:1", 403),
        ("[", 403),
        ("[zz]", 403),
        ("[1]", 403),
        (":1", 403),
        ("evil.test@localhost", 403),
        ("localhost/", 403),
        ("localhost:x", 403),
    ],
)
def test_a_request_has_to_name_this_machine(admin: Admin, host: str, status: int):
    """A page in a browser here could reach the address under a name of its own."""
    assert admin.ask("GET", "/v1/config", host=host).status == status


@pytest.mark.parametrize(
    "base_path",
    [
        "s3://me:hunter2@bucket/n",
        "hdfs://me:hunter2@host/n",
        "https://host/n?sig=hunter2",
        "https://host/n#hunter2",
        "s3://me:hunter2@[/n",
    ],
)
def test_a_base_path_with_a_secret_is_refused_and_not_repeated(
    admin: Admin, base_path: str, caplog: pytest.LogCaptureFixture
):
    """Configurations are logged and read."""
    answer = admin.ask("PUT", "/v1/config/models/n", {"base_path": base_path}, "test-1")

    assert answer.status == 400
    assert b"hunter2" not in answer.body
    assert "hunter2" not in caplog.text
    assert admin.names() == ["m"]


def test_status_and_list_show_every_model(admin: Admin):
    """With versions, labels and what labels wait for."""
    admin.house.serve(model("m", stable=1))
    admin.house.serve(model("m", stable=2), model("n"))

    answer = admin.ask("GET", "/v1/status")

    assert answer.body == models_page(admin.house.core)
    assert json.loads(answer.body) == {
        "config_revision": "test-3",
        "models": [
            {
                "name": "m",
                "configured": True,
                "model_version_status": [
                    {
                        "version": "1",
                        "state": "AVAILABLE",
                        "status": {"error_code": "OK", "error_message": ""},
                    }
                ],
                "version_labels": {"stable": "1"},
                "awaited_version_labels": {"stable": "2"},
            },
            {
                "name": "n",
                "configured": True,
                "model_version_status": [],
                "version_labels": {},
            },
        ],
    }


def test_the_list_of_models_is_a_handler_around_another(admin: Admin):
    """Which answers everything else."""
    inner = HttpResponse(404)
    listed = ModelList(admin.house.core, lambda _: inner)

    async def ask(method: str, target: str) -> HttpResponse:
        answer = listed.answer(HttpRequest(method, target))
        return answer if isinstance(answer, HttpResponse) else await answer

    answer = asyncio.run(ask("GET", "/v1/models"))
    assert (answer.status, answer.body) == (200, models_page(admin.house.core))
    for method, target in (("POST", "/v1/models"), ("GET", "/v1/models/m")):
        assert asyncio.run(ask(method, target)) is inner


@pytest.mark.parametrize(
    "text", ["127.0.0.1:8502", "localhost:0", "[::1]:8502", "127.3.4.5:1", "unix:/a", "/a/b"]
)
def test_addresses_of_this_machine_are_opened(text: str):
    """A UNIX socket is one, too."""
    assert read_address(text, allow_remote=False).is_of_this_machine()


@pytest.mark.parametrize("text", ["0.0.0.0:8502", "[::]:8502", "10.0.0.1:8502", "models.test:1"])
def test_addresses_that_others_reach_have_to_be_allowed(text: str):
    """Whoever reaches it decides what is served."""
    with pytest.raises(PermissionDenied, match="--admin_allow_remote"):
        read_address(text, allow_remote=False)

    assert not read_address(text, allow_remote=True).is_of_this_machine()


@pytest.mark.parametrize("text", ["8502", ":8502", "localhost:", "localhost:x", "localhost:70000"])
def test_what_is_no_address_is_refused(text: str):
    """With what one looks like."""
    with pytest.raises(InvalidArgument, match=r"HOST:PORT, as in 127\.0\.0\.1:8502"):
        read_address(text, allow_remote=True)


def test_the_admin_socket_is_its_owners_alone(admin: Admin, tmp_path: Path):
    """A configuration is read over it."""
    path = tmp_path / "admin.sock"

    async def ask() -> bytes:
        door = open_admin_door(f"unix:{path}", admin.house.core, allow_remote=False)
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"GET /v1/config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer
        finally:
            mode.append(stat.S_IMODE(path.stat().st_mode))
            await door.close()

    mode: list[int] = []
    answer = asyncio.run(ask())

    assert b'"revision": "test-1"' in answer
    assert mode == [0o600]


def test_an_address_that_cannot_be_had_ends_the_start(admin: Admin, tmp_path: Path):
    """With the reason."""

    async def open_it() -> None:
        open_admin_door(f"unix:{tmp_path}/no/folder", admin.house.core, allow_remote=False)

    with pytest.raises(Unavailable, match="No such file or directory"):
        asyncio.run(open_it())
