"""A Keras ``Sequential``, exported in both ways, served as ``MLP`` and asked with ``requests``.

export_mlp.py /tmp/MLP
salver serve --model_name=MLP --model_base_path=/tmp/MLP
ask_mlp.py --images=100
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from answers import Answers, error_rate
from ask_mlp import predict
from outcome import Outcome
from scripts import run_script
from serving import serving

HERE: Final = Path(__file__).resolve().parent


def run(workdir: Path) -> list[Outcome]:
    """Train, export, serve and ask, once for each way to export."""
    return [run_with(saver, workdir / saver) for saver in ("model.export", "tf.saved_model.save")]


def run_with(saver: str, workdir: Path) -> Outcome:
    """The same story whichever way the model is saved."""
    workdir.mkdir()
    models, answers_file = workdir / "MLP", workdir / "answers.npz"
    run_script(
        HERE / "export_mlp.py", f"--save_with={saver}", f"--answers={answers_file}", str(models)
    )
    answers = Answers.load(answers_file)
    with serving(["--model_name=MLP", f"--model_base_path={models}"], workdir) as server:
        answers.check(predict(server.rest_address, answers.images))
        printed = run_script(HERE / "ask_mlp.py", f"--server={server.rest_address}", "--images=500")
    return Outcome(
        example="Keras Sequential",
        exported_with=saver,
        served_by="salver serve",
        checked_against="model.predict",
        error_rate=error_rate(printed),
    )
