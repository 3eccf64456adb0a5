"""A real server for clients: the same models in the clear and over TLS."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certificates import Authority
from clients.contract import Target
from server_process import ServerProcess, config_file

MODELS: Final = ("half_plus_two", "all_dtypes", "turnstile")

FLAGS: Final = (
    "--enable_grpc_healthcheck_service",
    "--rest_api_num_threads=32",
    "--tensorflow_inter_op_parallelism=32",
)
"""Runs of ``turnstile`` hold threads, TensorFlow's own among them, and are not to use them up."""

PROTOS: Final = Path(__file__).parents[2] / "src/salver/protos/public"


@dataclass(frozen=True)
class Served:
    """A running server; ``target`` is for one client program."""

    process: ServerProcess
    ca: Path | None
    folder: Path
    open_gates: ExitStack

    @contextmanager
    def target(self, name: str, calls: int = 10_000) -> Iterator[Target]:
        """What a client is told; runs of ``turnstile`` that it leaves behind end with the block."""
        gate = self.folder / f"{name}.gate"
        os.mkfifo(gate)
        host, scheme = ("localhost", "https") if self.ca else ("127.0.0.1", "http")
        try:
            yield Target(
                grpc=f"{host}:{self.process.grpc_port}",
                rest=f"{scheme}://{host}:{self.process.rest_port}",
                ca=self.ca,
                gate=gate,
                protos=PROTOS,
                calls=calls,
            )
        finally:
            opened = os.open(gate, os.O_RDWR)  # whoever writes to it waits no longer
            self.open_gates.callback(os.close, opened)


@contextmanager
def serve(base_path: Callable[[str], Path], folder: Path, *, tls: bool) -> Iterator[Served]:
    """Start ``tensorflow_model_server`` with the models that clients ask for."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_file(folder, **{name: base_path(name) for name in MODELS})
    flags = [f"--model_config_file={config}", *FLAGS]
    ca = None
    if tls:
        authority = Authority(folder / "authority")
        ca = authority.path
        flags += [f"--ssl_config_file={ssl_config(authority, folder)}", "--rest_api_tls"]
    with ExitStack() as open_gates, ServerProcess(*flags) as process:
        yield Served(process.wait_until_started(), ca, folder, open_gates)


def ssl_config(authority: Authority, folder: Path) -> Path:
    """An SSLConfig file; JSON's strings are the text format's, too."""
    identity = authority.server()
    fields = {"server_key": identity.key, "server_cert": identity.certificate}
    path = folder / "ssl.config"
    path.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items()))
    return path
