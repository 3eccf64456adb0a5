"""What the commands without a gRPC of their own send, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from google.protobuf.message import Message

from clients.contract import LARGE_FLOATS, Target
from clients.python.grpcio_sync import half_plus_two, identity

GRPC_HEADERS: Final = ("content-type: application/grpc", "te: trailers", "grpc-timeout: 60S")

QUESTION: Final = '{"instances": [1, 2, 5]}'

ANSWER: Final = {"predictions": [2.5, 3.0, 4.5]}


class Bodies:
    """Files for the options that take the path of a body."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.call = self._grpc("call", half_plus_two())
        self.unknown_call = self._grpc("unknown", half_plus_two("nope"))
        self.large_call = self._grpc("large", identity(np.ones(LARGE_FLOATS, np.float32)))
        self.question = self.file("question", QUESTION.encode())
        values = b"0.5," * (LARGE_FLOATS - 1) + b"0.5"
        self.large = self.file("json", b'{"signature_name":"float","instances":[' + values + b"]}")

    def file(self, name: str, content: bytes) -> Path:
        """A file of this content."""
        path = self._folder / name
        path.write_bytes(content)
        return path

    def _grpc(self, name: str, request: Message) -> Path:
        message = request.SerializeToString()
        return self.file(f"{name}.grpc", b"\0" + len(message).to_bytes(4, "big") + message)


def grpc_url(target: Target, method: str = "Predict") -> str:
    """The URL of a method."""
    scheme = "https" if target.ca else "http"
    return f"{scheme}://{target.grpc}/tensorflow.serving.PredictionService/{method}"
