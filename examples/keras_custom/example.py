"""A ``keras.Model`` of one's own, exported by its ``call`` and asked by that name.

export_custom.py /tmp/digits
salver serve --model_name=digits --model_base_path=/tmp/digits
ask_custom.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from answers import error_rate
from outcome import Outcome
from scripts import run_script
from serving import serving

HERE: Final = Path(__file__).resolve().parent


def run(workdir: Path) -> Outcome:
    """Train, export, serve and ask."""
    models, answers = workdir / "digits", f"--answers={workdir / 'answers.npz'}"
    run_script(HERE / "export_custom.py", answers, str(models))
    with serving(["--model_name=digits", f"--model_base_path={models}"], workdir) as server:
        addresses = [f"--rest={server.rest_address}", f"--grpc={server.grpc_address}"]
        printed = run_script(HERE / "ask_custom.py", *addresses, answers)
    return Outcome(
        example="custom keras.Model",
        exported_with='tf.saved_model.save, signatures={"call": model.call}',
        served_by="salver serve",
        checked_against="model.call",
        error_rate=error_rate(printed),
    )
