"""TensorFlow Lite models, asked by the client that asks SavedModels: nothing changes for it.

export_lite.py /tmp/lite
salver serve --prefer_tflite_model --model_name=mnist --model_base_path=/tmp/lite/float
mnist_builder/mnist_client.py --num_tests=1000 --server=localhost:8500
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from answers import Answers, error_rate
from outcome import Outcome
from scripts import run_script
from serving import SALVER_SERVE, serving

HERE: Final = Path(__file__).resolve().parent
CLIENT: Final = HERE.parent / "mnist_builder" / "mnist_client.py"
TENSORFLOW_MODEL_SERVER: Final = ("tensorflow_model_server",)


def run(workdir: Path) -> list[Outcome]:
    """Train once, convert in three ways, and serve each."""
    models = workdir / "lite"
    run_script(HERE / "export_lite.py", "--answers", str(models))
    return [
        serve(models / "float", "tf.lite.TFLiteConverter", SALVER_SERVE, workdir),
        serve(models / "quantized", "TFLiteConverter, 8-bit weights", SALVER_SERVE, workdir),
        serve(
            models / "metadata",
            "TFLiteConverter, signature in metadata",
            TENSORFLOW_MODEL_SERVER,
            workdir,
        ),
    ]


def serve(models: Path, exported_with: str, command: Sequence[str], workdir: Path) -> Outcome:
    """Serve a model, compare its answers with TensorFlow's, and have the client ask it."""
    flags = ["--prefer_tflite_model", "--model_name=mnist", f"--model_base_path={models}"]
    answers = Answers.load(models / "answers.npz")
    body = {"signature_name": "predict_images", "instances": answers.images.tolist()}
    with serving(flags, workdir, command=command) as server:
        answers.check(server.ask("/v1/models/mnist:predict", body)["predictions"])
        server_flag = f"--server={server.grpc_address}"
        printed = run_script(CLIENT, "--num_tests=1000", "--concurrency=8", server_flag)
    return Outcome(
        example=f"TensorFlow Lite, {models.name}",
        exported_with=exported_with,
        served_by=" ".join(command),
        checked_against="tf.lite.Interpreter",
        error_rate=error_rate(printed),
    )
