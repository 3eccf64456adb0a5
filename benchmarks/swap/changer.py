"""Whoever changes what a server serves: new versions, new configurations, one after the other.

    changer.py GRPC_PORT BASE_PATH EXPORTED SMALL

A process of its own, for the stubs of tensorflow-serving-api bring TensorFlow along.  It reads
``swap``, ``reload`` or ``pause`` from its standard input and writes ``done`` after each, or what
went wrong.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
)

TIMEOUT_S: Final = 60.0
LOOK_EVERY_S: Final = 0.02
PAUSE_S: Final = 0.5
MODEL: Final = "embedding"
SMALL_MODEL: Final = "half_plus_two"
CONFIGURATIONS: Final = 10
"""Names of models come back after so many: a server remembers whatever it has heard of."""

States = get_model_status_pb2.ModelVersionStatus


class Changer:
    """Changes one server, whose configuration nobody else touches."""

    def __init__(self, port: int, base_path: Path, exported: Path, small: Path) -> None:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)
        self._base_path, self._exported, self._small = base_path, exported, small
        self._version = max(int(each.name) for each in base_path.iterdir())
        self._reloads = 0

    def swap(self) -> None:
        """Put a new version in place, wait until it serves and the old one has gone."""
        old, new = self._version, self._version + 1
        unfinished = self._base_path.with_name(f"{self._base_path.name}.unfinished")
        shutil.copytree(self._exported, unfinished, copy_function=os.link)
        unfinished.rename(self._base_path / str(new))
        self._wait(new, States.AVAILABLE)
        self._wait(old, States.END)
        shutil.rmtree(self._base_path / str(old))
        self._version = new

    def reload(self) -> None:
        """Configure the models anew: some that were not there come, and some that were go."""
        self._reloads += 1
        request = model_management_pb2.ReloadConfigRequest()
        number = self._reloads % CONFIGURATIONS
        extras = [f"extra_{number}_{letter}" for letter in "ab"]
        paths = {MODEL: self._base_path, **dict.fromkeys([SMALL_MODEL, *extras], self._small)}
        for name, path in paths.items():
            request.config.model_config_list.config.add(
                name=name, base_path=str(path), model_platform="tensorflow"
            )
        status = self._models.HandleReloadConfigRequest(request, TIMEOUT_S).status
        if status.error_code:
            raise RuntimeError(status.error_message)

    def pause(self) -> None:
        """Do nothing for a moment."""
        time.sleep(PAUSE_S)

    def _wait(self, version: int, state: int) -> None:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = MODEL
        request.model_spec.version.value = version
        gives_up_s = time.monotonic() + TIMEOUT_S
        while (found := self._status(request)) is None or found.state != state:
            if time.monotonic() > gives_up_s or (found and found.status.error_code):
                raise RuntimeError(f"version {version} came to {found}, not to {state}")
            time.sleep(LOOK_EVERY_S)

    def _status(self, request: object) -> object | None:
        try:
            answer = self._models.GetModelStatus(request, TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:  # it has not been seen yet
                return None
            raise
        return answer.model_version_status[0]


def main() -> None:
    """Do what the lines of standard input say."""
    port, base_path, exported, small = sys.argv[1:]
    changer = Changer(int(port), Path(base_path), Path(exported), Path(small))
    what = {"swap": changer.swap, "reload": changer.reload, "pause": changer.pause}
    print("ready", flush=True)
    for line in sys.stdin:
        print(outcome(what[line.strip()]), flush=True)


def outcome(change: Callable[[], None]) -> str:
    """How a change went."""
    try:
        change()
    except (RuntimeError, grpc.RpcError, OSError) as error:
        return f"failed: {error!r}".replace("\n", " ")
    return "done"


if __name__ == "__main__":
    main()
