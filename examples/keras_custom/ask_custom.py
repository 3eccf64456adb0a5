"""Ask a server for the digits on test images by the name of a signature, over REST and over gRPC.

    ask_custom.py [--rest=HOST:PORT] [--grpc=HOST:PORT] [--answers=FILE]

Both have to say the same.  With ``--answers``, the images are those of that file, and both have to
say what the trained model said.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1] / "mnist"))

import grpc
import numpy as np
import requests
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import data
from answers import Answers

MODEL: Final = "digits"
SIGNATURE: Final = "call"
IMAGES: Final = 100
REQUEST_TIMEOUT_S: Final = 30.0


def unseen_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images that the model has not seen, and what is on them."""
    digits = data.load()
    return digits.test_images[:IMAGES], digits.test_labels[:IMAGES]


def predict_over_rest(server: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores and the digits: with two outputs each prediction is an object."""
    response = requests.post(
        f"http://{server}/v1/models/{MODEL}:predict",
        data=json.dumps({"signature_name": SIGNATURE, "instances": images.tolist()}),
        headers={"content-type": "application/json"},
        timeout=REQUEST_TIMEOUT_S,
    )
    response.raise_for_status()
    predictions = json.loads(response.text)["predictions"]
    scores = np.array([prediction["scores"] for prediction in predictions], np.float32)
    return scores, np.array([prediction["digit"] for prediction in predictions])


def predict_over_grpc(server: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same as tensors."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.model_spec.signature_name = SIGNATURE
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    with grpc.insecure_channel(server) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = stub.Predict(request, REQUEST_TIMEOUT_S).outputs
    return tf.make_ndarray(outputs["scores"]), tf.make_ndarray(outputs["digit"])


def main(arguments: list[str]) -> None:
    """Ask in both ways and compare."""
    parser = argparse.ArgumentParser(description="Classify test images with a running server.")
    parser.add_argument("--rest", default="localhost:8501", metavar="HOST:PORT")
    parser.add_argument("--grpc", default="localhost:8500", metavar="HOST:PORT")
    parser.add_argument("--answers", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)

    known = Answers.load(options.answers) if options.answers else None
    images, labels = (known.images, known.labels) if known else unseen_digits()
    scores, seen = predict_over_rest(options.rest, images)
    if known:
        known.check(scores)
    grpc_scores, grpc_seen = predict_over_grpc(options.grpc, images)
    Answers(images, labels, scores).check(grpc_scores)
    if not np.array_equal(seen, grpc_seen):
        sys.exit("over REST and over gRPC other digits are seen")
    print(f"{len(images)} answers over REST, and the same over gRPC")
    print(f"Inference error rate: {np.mean(seen != labels):.2%}")


if __name__ == "__main__":
    main(sys.argv[1:])
