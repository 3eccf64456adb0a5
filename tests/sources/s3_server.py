"""A server that speaks S3, in a process of its own, and an HTTP server with pages of links."""

from __future__ import annotations

import http.server
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import requests

from server_process import PATIENCE_S, free_ports

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "the-key",
    "AWS_SECRET_ACCESS_KEY": "the-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """Buckets in memory; ends with the ``with`` block, and may end and begin again before."""

    def __init__(self) -> None:
        self.port, _ = free_ports()
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client finds the server and its keys by."""
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.url}

    def start(self) -> None:
        """Begin, with no bucket."""
        command = Path(sys.executable).with_name("moto_server")
        self._process = subprocess.Popen(
            [command, "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "Running on" in line:
                break
        else:
            raise AssertionError("the S3 server did not start")
        threading.Thread(target=self._process.stderr.read, daemon=True).start()

    def kill(self) -> None:
        """End at once, and forget everything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)

    def send(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP makes a server that takes connections and never answers."""
        assert self._process is not None
        self._process.send_signal(number)

    def make_bucket(self, bucket: str) -> None:
        requests.put(f"{self.url}/{bucket}", timeout=PATIENCE_S).raise_for_status()

    def put(self, key: str, content: bytes) -> None:
        requests.put(f"{self.url}/{key}", data=content, timeout=PATIENCE_S).raise_for_status()

    def put_tree(self, prefix: str, folder: Path, *, leave_out: str = "") -> None:
        """Upload every file of a folder, but for one."""
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name != leave_out:
                self.put(f"{prefix}/{name}", path.read_bytes())

    def delete(self, key: str) -> None:
        requests.delete(f"{self.url}/{key}", timeout=PATIENCE_S).raise_for_status()

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class FolderOverHttp:
    """Serves a folder, with pages of links, until the ``with`` block ends."""

    def __init__(self, folder: Path) -> None:
        handler = partial(_QuietHandler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FolderOverHttp:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
