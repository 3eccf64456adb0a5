"""More models than memory: refused, or made to take turns."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc
import pytest

pytest.importorskip("tensorflow_serving", reason="the stubs are TensorFlow Serving's")

from broken_versions import put
from saved_models import Shelf
from server_process import ServerProcess, config_file
from steady_client import HALF_PLUS_TWO, Asking, SteadyClient

SALVER: Final = ("salver", "serve")
MODELS: Final = ("first", "second", "third")
AT_A_TIME: Final = 2
TURNS: Final = 6
ASKERS: Final = 4
RESOURCE_EXHAUSTED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


def budget_flags(shelf: Shelf, folder: Path) -> tuple[str, ...]:
    """Three models, and memory for two of them."""
    bases = {name: folder / name for name in MODELS}
    for base in bases.values():
        put(shelf.version("half_plus_two"), base, 1)
    files = [file for file in (folder / MODELS[0]).rglob("*") if file.is_file()]
    needed = int(sum(file.stat().st_size for file in files) * 1.2)
    return (
        f"--model_config_file={config_file(folder, **bases)}",
        f"--memory_budget_bytes={needed * AT_A_TIME + needed // 2}",
    )


def states(questions: Asking) -> dict[str, tuple[str, int, str]]:
    return {name: questions.status(name, 1) for name in MODELS}


def test_a_model_beyond_the_budget_is_refused_until_there_is_room(shelf: Shelf, tmp_path: Path):
    """It says so, the others serve, and once one of them has left it is loaded by itself."""
    with ServerProcess(*budget_flags(shelf, tmp_path), command=SALVER) as server:
        server.wait_until_started()
        with Asking(server) as questions:
            found = states(questions)
            (refused,) = (name for name in MODELS if found[name][0] == "END")
            leaving, staying = sorted(set(MODELS) - {refused})
            with SteadyClient(server, staying) as client:
                with pytest.raises(grpc.RpcError) as missed:
                    questions.predict(refused)
                shutil.rmtree(tmp_path / leaving / "1")
                questions.wait_until(refused, 1, "AVAILABLE")
                answer = questions.predict(refused)
                client.wait_for_answers()

    text = f"Insufficient resources to load servable {{name: {refused} version: 1}}"
    assert found[refused] == ("END", RESOURCE_EXHAUSTED, text)
    assert missed.value.code() is grpc.StatusCode.NOT_FOUND
    assert answer == HALF_PLUS_TWO
    assert client.failures == []


def test_models_beyond_the_budget_take_turns(shelf: Shelf, tmp_path: Path):
    """Whoever is asked for wakes up, several askers share one load, and no request fails.

    A model that is much used stays, or is woken like the others.
    """
    flags = (*budget_flags(shelf, tmp_path), "--evict_models")
    busy, *others = MODELS
    with ServerProcess(*flags, command=SALVER) as server:
        server.wait_until_started()
        with Asking(server) as questions:
            questions.predict(busy)
            with (
                SteadyClient(server, busy, over=("gRPC",)) as client,
                ThreadPoolExecutor(ASKERS) as pool,
            ):
                answers = []
                for name in others * TURNS:
                    answers += pool.map(questions.predict, [name] * ASKERS)
                    client.wait_for_answers(2)
                found = states(questions)
                client.wait_for_answers()
            asleep = [line for line in server.log if "Putting servable" in line]

    assert client.failures == []
    assert answers == [HALF_PLUS_TWO] * len(answers)
    assert all(code == 0 for _, code, _ in found.values())
    assert len(asleep) >= TURNS
