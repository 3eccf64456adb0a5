"""Real servers with real models in a store that speaks S3, and on a web server."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from s3_server import FolderOverHttp, S3Server

from saved_models import Shelf
from server_process import PATIENCE_S, ServerProcess

LOADED = "Successfully loaded servable version {{name: m version: {}}}"


@pytest.fixture
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("models")
        yield server


def serving(s3: S3Server, cache: Path, *flags: str) -> ServerProcess:
    return ServerProcess(
        "--model_name=m",
        "--model_base_path=s3://models/m",
        f"--model_cache_dir={cache}",
        "--remote_poll_wait_seconds=0.2",
        *flags,
        command=("salver", "serve"),
        environment=s3.environment,
    )


def answer(server: ServerProcess) -> list[float]:
    response = requests.post(
        server.url("/v1/models/m:predict"), json={"instances": [2.0]}, timeout=PATIENCE_S
    )
    response.raise_for_status()
    return response.json()["predictions"]


def test_models_are_served_from_s3_and_outlive_the_store(
    s3: S3Server, shelf: Shelf, tmp_path: Path
):
    """A version is served, a new one takes over when its last file is there, and neither a store
    that is gone nor a restart without it is felt; back again, it is listened to.
    """
    two, three = shelf.version("half_plus_two"), shelf.version("half_plus_three")
    late = "variables/variables.index"
    s3.put_tree("models/m/1", two)
    with serving(s3, tmp_path) as server:
        server.wait_for(LOADED.format(1))
        assert answer(server) == [3.0]

        s3.put_tree("models/m/2", three, leave_out=late)
        server.wait_for("s3://models/m/2 is not complete yet: it lacks variables/variables.index")
        assert answer(server) == [3.0]
        s3.put(f"models/m/2/{late}", (three / late).read_bytes())
        server.wait_for(LOADED.format(2))
        assert answer(server) == [4.0]

        s3.kill()
        server.wait_for("Could not find base path s3://models/m for servable m")
        assert answer(server) == [4.0]
        server.send(signal.SIGKILL)
        server.wait()
        assert "the-secret" not in "".join(server.log)

    with serving(s3, tmp_path) as server:
        server.wait_for("from the model cache until its store has answered")
        server.wait_for(LOADED.format(2))
        assert answer(server) == [4.0]

        s3.start()
        s3.make_bucket("models")
        s3.put_tree("models/m/3", two)
        server.wait_for(LOADED.format(3))

        assert answer(server) == [3.0]


def test_store_that_hangs_is_felt_by_nobody_else(s3: S3Server, shelf: Shelf, tmp_path: Path):
    """While a store does not answer, models of this machine load, and the others serve on."""
    s3.put_tree("models/m/1", shelf.version("half_plus_two"))
    folder = tmp_path / "local"
    folder.mkdir()
    config = tmp_path / "models.config"
    config.write_text(
        "model_config_list {\n"
        '  config { name: "m" base_path: "s3://models/m" model_platform: "tensorflow" }\n'
        f'  config {{ name: "local" base_path: "{folder}" model_platform: "tensorflow" }}\n'
        "}\n"
    )
    with serving(s3, tmp_path / "cache", f"--model_config_file={config}") as server:
        server.wait_for(LOADED.format(1))
        s3.send(signal.SIGSTOP)

        (folder / "1").symlink_to(shelf.version("half_plus_three"))
        server.wait_for("Successfully loaded servable version {name: local version: 1}")

        assert answer(server) == [3.0]
        s3.send(signal.SIGCONT)


def test_cache_that_cannot_be_written_is_the_models_status(
    s3: S3Server, shelf: Shelf, tmp_path: Path
):
    """END with one clear sentence; when the folder can be written to, the model is served."""
    s3.put_tree("models/m/1", shelf.version("half_plus_two"))
    in_the_way = tmp_path / "cache"
    in_the_way.touch()
    with serving(s3, in_the_way) as server:
        server.wait_for(f"the model cache {in_the_way} cannot be written to: ")
        server.wait_for("Serving what could be loaded")
        status = requests.get(server.url("/v1/models/m"), timeout=PATIENCE_S).json()

        in_the_way.unlink()
        server.wait_for(LOADED.format(1))

        (version,) = status["model_version_status"]
        assert version["state"] == "END"
        assert (
            f"the model cache {in_the_way} cannot be written" in version["status"]["error_message"]
        )
        assert answer(server) == [3.0]


def test_two_servers_share_a_cache(s3: S3Server, shelf: Shelf, tmp_path: Path):
    """Both start at once on an empty folder, both serve, and one copy is there."""
    s3.put_tree("models/m/1", shelf.version("half_plus_two"))
    with serving(s3, tmp_path) as one, serving(s3, tmp_path) as other:
        for server in (one, other):
            server.wait_for(LOADED.format(1))

            assert answer(server) == [3.0]
    assert len(list(tmp_path.glob("*/*"))) == 1


def test_models_are_served_from_a_web_server(shelf: Shelf, tmp_path: Path):
    """A folder that a web server shows as pages of links is a base path."""
    flags = ("--model_name=m", f"--model_cache_dir={tmp_path}", "--remote_poll_wait_seconds=0.2")
    with (
        FolderOverHttp(shelf("half_plus_two")) as web,
        ServerProcess(f"--model_base_path={web.url}", *flags) as server,
    ):
        server.wait_until_started()

        assert answer(server) == [3.0]


@pytest.mark.skipif(sys.platform != "linux", reason="another process is limited as Linux allows it")
def test_disk_that_takes_no_more_keeps_the_old_version_and_is_recovered_from(
    s3: S3Server, shelf: Shelf, tmp_path: Path
):
    """A copy that cannot be written is the new version's trouble; with room again it is served."""
    s3.put_tree("models/m/1", shelf.version("half_plus_two"))
    with serving(s3, tmp_path) as server:
        server.wait_for(LOADED.format(1))
        unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (100, unlimited[1]))

        s3.put_tree("models/m/2", shelf.version("half_plus_three"))
        line = server.wait_for("File too large")
        while_full = answer(server)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
        server.wait_for(LOADED.format(2))

        assert while_full == [3.0]
        assert "Version 2 of servable m cannot be copied" in line
        assert answer(server) == [4.0]
