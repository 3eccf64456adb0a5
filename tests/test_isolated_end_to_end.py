"""A server with isolated models: what happens to one is not felt by another."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from saved_models import Shelf
from server_process import ServerProcess, config_file

CALM, CRASHING = "calm", "crashing"
EXPECTED = {"predictions": [2.5, 3.0, 4.5]}


def start(tmp_path: Path, shelf: Shelf, *flags: str) -> ServerProcess:
    config = config_file(
        tmp_path, **{CALM: shelf("half_plus_two"), CRASHING: shelf("half_plus_two")}
    )
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }", encoding="ascii")
    return ServerProcess(
        f"--model_config_file={config}",
        f"--monitoring_config_file={monitoring}",
        *flags,
        command=("salver", "serve"),
    )


def get(server: ServerProcess, path: str, body: object = None) -> tuple[int, Any]:
    request = urllib.request.Request(  # noqa: S310 - http on loopback
        server.url(path), None if body is None else json.dumps(body).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def predict(server: ServerProcess, name: str) -> tuple[int, Any]:
    return get(server, f"/v1/models/{name}:predict", {"instances": [1.0, 2.0, 5.0]})


def worker_of(server: ServerProcess, name: str, *, besides: int = 0) -> int:
    """The process of a model, which is not the one that is known already."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == besides:
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == server.pid and f"{name}/1".encode() in words:
            return int(folder.name)
    raise AssertionError(f"no process of {name}")


class Load:
    """Asks a model again and again in a thread of its own, and keeps what it is told."""

    def __init__(self, server: ServerProcess, name: str) -> None:
        self.answers: list[tuple[int, Any]] = []
        self._is_over = threading.Event()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._ask, args=(server, name))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._thread.join()

    def wait_for(self, status: int, *, after: int = 0) -> int:
        """Wait for an answer with this status; how many there are then."""

        def is_there() -> bool:
            return any(found == status for found, _ in self.answers[after:])

        with self._news:
            assert self._news.wait_for(is_there, 60)
            return len(self.answers)

    def _ask(self, server: ServerProcess, name: str) -> None:
        while not self._is_over.is_set():
            answer = predict(server, name)
            with self._news:
                self.answers.append(answer)
                self._news.notify_all()


def test_the_crash_of_one_model_is_not_felt_by_another(tmp_path: Path, shelf: Shelf):
    """Killed under load, again and again: it says so, comes back by itself; no other call fails."""
    with start(tmp_path, shelf, f"--isolated_models={CRASHING}") as server:
        server.wait_until_started()
        with Load(server, CALM) as calm, Load(server, CRASHING) as crashing:
            pid, seen = 0, crashing.wait_for(200)
            for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT):
                pid = worker_of(server, CRASHING, besides=pid)
                os.kill(pid, number)
                seen = crashing.wait_for(503, after=seen)
                status = get(server, f"/v1/models/{CRASHING}")
                seen = crashing.wait_for(200, after=seen)
                assert_is_being_restarted_or_back(status)
            calm.wait_for(200, after=len(calm.answers))
        failed = [answer for status, answer in crashing.answers if status != 200]
        page = page_of(server)

    assert {status for status, _ in calm.answers} == {200}
    assert all(answer == EXPECTED for status, answer in crashing.answers if status == 200)
    assert {status for status, _ in crashing.answers} == {200, 503}
    assert all(f"odel {CRASHING}/1" in answer["error"] for answer in failed)
    assert f'salver_isolated_deaths_total{{model_name="{CRASHING}"}} 3' in page
    assert f'salver_isolated_restarts_total{{model_name="{CRASHING}"}} 3' in page


def assert_is_being_restarted_or_back(answer: tuple[int, Any]) -> None:
    """A status taken while the process is down tells so; one that came late finds it back."""
    (version,) = answer[1]["model_version_status"]
    if version["state"] == "AVAILABLE":
        assert version["status"] == {"error_code": "OK", "error_message": ""}
    else:
        assert version["state"] == "LOADING"
        assert version["status"]["error_code"] == "UNAVAILABLE"
        assert "is down: its process was killed by signal" in version["status"]["error_message"]


def page_of(server: ServerProcess) -> str:
    path = server.url("/monitoring/prometheus/metrics")
    with urllib.request.urlopen(path, timeout=60) as answer:  # noqa: S310 - http on loopback
        return answer.read().decode()


def test_no_process_outlives_its_server(tmp_path: Path, shelf: Shelf):
    """kill -9 of the server ends the processes of its models, which nobody could ask to end."""
    with start(tmp_path, shelf, "--isolated_models=*") as server:
        server.wait_until_started()
        watched = [os.pidfd_open(worker_of(server, name)) for name in (CALM, CRASHING)]

        server.send(signal.SIGKILL)

        for descriptor in watched:
            assert is_over(descriptor)
            os.close(descriptor)


def test_a_ctrl_c_is_the_servers_to_handle(tmp_path: Path, shelf: Shelf):
    """The whole foreground group gets it; the models' processes end in order, with the server."""
    with start(tmp_path, shelf, "--isolated_models=*") as server:
        server.wait_until_started()
        pids = [worker_of(server, name) for name in (CALM, CRASHING)]
        groups = {os.getpgid(pid) for pid in pids}

        server.send(signal.SIGINT)

        assert server.wait() == 0
        assert groups == set(pids)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_worker_has_no_socket_of_the_server(tmp_path: Path, shelf: Shelf):
    """It holds its end of a socket pair and of a pipe, and nothing that listens."""
    with start(tmp_path, shelf, "--isolated_models=*") as server:
        server.wait_until_started()
        listening = sockets_that_listen()
        links = [
            str(link.readlink())
            for name in (CALM, CRASHING)
            for link in Path(f"/proc/{worker_of(server, name)}/fd").iterdir()
        ]

    assert listening
    assert not [link for link in links if link in listening]


def sockets_that_listen() -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                found.add(f"socket:[{words[9]}]")
    return found


def is_over(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(60_000))
