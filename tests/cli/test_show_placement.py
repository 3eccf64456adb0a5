"""``salver show --log_device_placement``: where operations run, told by running them."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.cli.show import run
from saved_models import Shelf


@pytest.fixture
def four_cpus(tmp_path: Path) -> str:
    """The option for a session config with four CPUs."""
    file = tmp_path / "session.config"
    file.write_text('device_count { key: "CPU" value: 4 }')
    return f"--session_config_file={file}"


def test_it_lists_the_operations_of_each_device(
    shelf: Shelf, four_cpus: str, capfd: pytest.CaptureFixture[str]
):
    """Those in functions, too, by signature."""
    version = shelf.version("on_cpu_2")
    code = run([f"--dir={version}", "--log_device_placement", four_cpus])
    devices, _, text = capfd.readouterr().out.partition("\n\n")

    assert code == 0
    assert devices == "Devices: /device:CPU:0, /device:CPU:1, /device:CPU:2, /device:CPU:3"
    assert text.startswith("Devices of signature 'serving_default':\n  /device:CPU:0\n    ")
    on_the_third = text.partition("  /device:CPU:2\n")[2].splitlines()
    assert [line.rpartition("/")[2] for line in on_the_third] == ["mul (Mul)"]


def test_a_signature_that_cannot_be_run_says_why(shelf: Shelf, capfd: pytest.CaptureFixture[str]):
    """One without inputs might do anything; the others are shown."""
    version = shelf.version("several_signatures")
    code = run([f"--dir={version}", "--log_device_placement"])
    text = capfd.readouterr().out

    assert code == 0
    assert "Devices of signature 'increment':\n  it was not run: it has no inputs" in text
    assert "Devices of signature 'scale':\n  /device:CPU:0\n" in text


def test_a_model_that_cannot_be_placed_says_what_helps(
    shelf: Shelf, capfd: pytest.CaptureFixture[str]
):
    """As its status in ``salver serve`` would."""
    version = shelf.version("unknown_op")
    code = run([f"--dir={version}", "--log_device_placement"])

    assert code == 1
    assert f"salver show: {version}, exported by TensorFlow 2." in capfd.readouterr().err
