"""Warmup and golden requests in a real server: what becomes of bad versions, who serves then."""

from __future__ import annotations

import os
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from logged_requests import GOLDEN, WARMUP, predict_log, vector_log, write_records
from saved_models import Shelf, tensorflow
from server_process import ServerProcess
from test_server_end_to_end import ask, ask_over_grpc, predict, put, statuses, wait_until

pytest.importorskip("tensorflow_serving", reason="the messages are TensorFlow Serving's")

SALVER = ("salver", "serve")
TFS = ("tensorflow_model_server",)

PAGE = Path(__file__).parents[1] / "docs" / "warmup.md"


class Models:
    """The base path of one model, into which versions are put."""

    def __init__(self, shelf: Shelf, folder: Path) -> None:
        self._shelf = shelf
        self._drafts = folder / "drafts"
        self.base_path = folder / "m"

    def draft(self, number: int, model: str) -> Path:
        """A version that the server cannot see yet."""
        return shutil.copytree(self._shelf.version(model), self._drafts / str(number))

    def publish(self, draft: Path) -> None:
        put(draft, self.base_path)

    def put(self, number: int, model: str) -> None:
        self.publish(self.draft(number, model))

    def flags(self) -> tuple[str, str]:
        return "--model_name=m", f"--model_base_path={self.base_path}"


@pytest.fixture
def models(shelf: Shelf, tmp_path: Path) -> Models:
    models = Models(shelf, tmp_path)
    models.put(1, "half_plus_two")
    return models


def page_example() -> str:
    """The program of the page that writes golden requests."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found
    return found[1]


def test_the_pages_golden_requests_let_good_versions_in_and_keep_bad_ones_out(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Recorded from version 1, as the page says; 2 answers alike, 3 does not, 4 is put right."""
    monkeypatch.chdir(tmp_path)
    with ServerProcess(*models.flags(), command=SALVER) as server:
        server.wait_until_started()
        wait_until(server, "m", 1, "AVAILABLE")
        program = page_example().replace("localhost:8500", server.grpc_address)
        Path("record.py").write_text(program.replace('"half_plus_two"', '"m"'))
        runpy.run_path("record.py")
        for number, model in ((2, "half_plus_two"), (3, "half_plus_three"), (4, "half_plus_two")):
            draft = models.draft(number, model)
            (draft / "assets.extra").mkdir(exist_ok=True)
            shutil.copy("salver_golden_requests", draft / GOLDEN)

        models.publish(tmp_path / "drafts" / "2")
        wait_until(server, "m", 2, "AVAILABLE")
        models.publish(tmp_path / "drafts" / "3")
        _, code, text = wait_until(server, "m", 3, "END")
        served_meanwhile = statuses(server, "m")[2][0], predict(server, "m", 1.0)
        models.publish(tmp_path / "drafts" / "4")
        wait_until(server, "m", 4, "AVAILABLE")

        assert code == "FAILED_PRECONDITION"
        assert text == (
            f"golden request 1 of {models.base_path}/3/{GOLDEN}: output 'y' is 3 at [0]; "
            "expected: 2. It is off by 1, and atol 1e-05 + rtol 0.0001 allows 0.00021; so are 1 "
            "of 1 numbers"
        )
        assert served_meanwhile == ("AVAILABLE", [2.5])
        assert predict(server, "m", 1.0) == [2.5]


def test_tensorflow_model_server_does_not_look_at_golden_requests(models: Models):
    """TensorFlow Serving does not know them."""
    draft = models.draft(2, "half_plus_three")
    write_records(draft / GOLDEN, vector_log([1], [2.5]))
    models.publish(draft)

    with ServerProcess(*models.flags(), command=TFS) as server:
        server.wait_until_started()

        assert predict(server, "m", 1.0) == [3.5]


@pytest.mark.parametrize("command", [TFS, SALVER], ids=["tensorflow_model_server", "salver"])
def test_a_version_that_fails_at_warmup_leaves_the_old_one_serving(
    models: Models, command: tuple[str, ...]
):
    """Its status is the cause; a later version that is in order replaces both."""
    flags = (*models.flags(), "--max_num_load_retries=0")
    with ServerProcess(*flags, command=command) as server:
        server.wait_until_started()
        wait_until(server, "m", 1, "AVAILABLE")
        refused = models.draft(2, "half_plus_three")
        write_records(refused / WARMUP, vector_log([1], signature_name="gone"))
        models.publish(refused)
        refusal = wait_until(server, "m", 2, "END")
        damaged = models.draft(3, "half_plus_three")
        path = write_records(damaged / WARMUP, vector_log([1]))
        path.write_bytes(path.read_bytes()[:-1])
        models.publish(damaged)
        damage = wait_until(server, "m", 3, "END")
        served_meanwhile = predict(server, "m", 1.0)
        good = models.draft(4, "half_plus_three")
        write_records(good / WARMUP, vector_log([1]), vector_log([1, 2]))
        models.publish(good)
        wait_until(server, "m", 4, "AVAILABLE")

        assert refusal[1:] == ("FAILED_PRECONDITION", 'Serving signature key "gone" not found.')
        assert damage[1] == "DATA_LOSS"
        assert damage[2] == (
            "truncated record at 0' failed with Read less bytes than requested. "
            "Please verify your warmup data is in TFRecord format."
        )
        assert served_meanwhile == [2.5]
        assert predict(server, "m", 1.0) == [3.5]
        server.wait_for("Number of warmup records read: 2.")


def test_warmup_can_be_switched_off(models: Models):
    """Then a damaged file is nobody's concern."""
    draft = models.draft(2, "half_plus_three")
    write_records(draft / WARMUP, b"no log")
    models.publish(draft)

    with ServerProcess(*models.flags(), "--enable_model_warmup=false") as server:
        server.wait_until_started()

        assert predict(server, "m", 1.0) == [3.5]


def test_a_new_version_is_asked_what_the_old_one_was(models: Models):
    """Over both doors; what it refuses does not keep it from serving."""
    flags = (*models.flags(), "--warmup_from_traffic=4")
    with ServerProcess(*flags, command=SALVER) as server:
        server.wait_until_started()
        wait_until(server, "m", 1, "AVAILABLE")
        predict(server, "m", 1.0)
        ask_over_grpc(server, "m", 2.0)
        ask(server, "/v1/models/m:predict", {"instances": ["wrong"]})
        models.put(2, "half_plus_three")
        wait_until(server, "m", 2, "AVAILABLE")
        line = server.wait_for("with live traffic")
        models.put(3, "several_signatures")
        wait_until(server, "m", 3, "AVAILABLE")
        other = server.wait_for("with live traffic", times=2)

        assert "{name: m version: 2} with live traffic: 2 requests, 0 of them failed" in line
        assert "{name: m version: 3} with live traffic: 2 requests, 2 of them failed" in other


def test_a_version_withdrawn_in_its_warmup_is_asked_no_more(models: Models, tmp_path: Path):
    """A newer one came: the request that runs ends, none follows it, and the old one serves on."""
    with ServerProcess(*models.flags(), command=SALVER) as server:
        server.wait_until_started()
        wait_until(server, "m", 1, "AVAILABLE")
        draft = models.draft(2, "turnstile")
        pipes = [tmp_path / name for name in ("arrived", "leave", "again", "gone")]
        for pipe in pipes:
            os.mkfifo(pipe)
        arrived, leave, again, gone = (str(pipe) for pipe in pipes)
        requests = [
            {"arrived": np.array(one), "leave": np.array(other)}
            for one, other in ((arrived, leave), (again, gone))
        ]
        write_records(draft / WARMUP, *map(predict_log, requests))
        models.publish(draft)
        begun = Path(arrived).read_text()
        models.put(3, "half_plus_three")
        server.wait_for("{name: m version: 2} is withdrawn: its warmup ends")
        served_meanwhile = predict(server, "m", 1.0)
        ended = Path(leave).read_text()
        status = wait_until(server, "m", 2, "END")
        wait_until(server, "m", 3, "AVAILABLE")

        assert (begun, ended) == ("here", "gone")
        assert status == ("END", "CANCELLED", "Loading of servable cancelled")
        assert (served_meanwhile, predict(server, "m", 1.0)) == ([2.5], [3.5])


def test_warmup_is_on_the_metrics_page(models: Models, tmp_path: Path):
    """By path and status, under TensorFlow Serving's names."""
    draft = models.draft(2, "half_plus_three")
    write_records(draft / WARMUP, vector_log([1]), vector_log([2]))
    models.publish(draft)
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    flags = (f"--monitoring_config_file={monitoring}", "--warmup_with_zeros")

    with ServerProcess(*models.flags(), *flags) as server:
        server.wait_until_started()
        lines = ask(server, "/monitoring/prometheus/metrics").body.decode().splitlines()

        labels = f'model_path="{models.base_path}/2",status="OK"'
        assert f":tensorflow:serving:model_warmup_records_read{{{labels}}} 2" in lines
        assert f":tensorflow:serving:model_warmup_latency_count{{{labels}}} 1" in lines
        replays = 'model_name="m",source="zeros",outcome="ok"'
        assert f"salver_warmup_replays_total{{{replays}}} 1" in lines


tensorflow()  # before the stubs that the page's program imports
