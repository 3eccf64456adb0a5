"""``salver show`` prints what TensorFlow's ``saved_model_cli show`` prints, line for line.

Only two things have no order there, and get the same one on both sides; see ``show_oracle``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from google.protobuf import text_format
from show_models import odd_functions
from show_oracle import saved_model_cli

from fakes import FakeServe
from salver.cli import main
from saved_models import ESTIMATORS, Shelf, read_saved_model

KERAS = ("keras_softmax", "keras_cnn")
BUILDER = ("v1_half_plus_two", "v1_classifier", "v1_main_op", "v1_legacy_init_op")
MODULES = ("half_plus_two", "several_signatures", "awkward_signatures", "turnstile", "all_dtypes")
OTHERS = ("gpu_only", "other_tag")
ESTIMATOR = tuple(
    f"{kind}_{way}" for kind in ("classifier", "regressor") for way in ("parsing", "raw")
)

ALL_OF: tuple[str, ...] = (
    *KERAS,
    *BUILDER,
    *MODULES,
    *OTHERS,
    *ESTIMATOR,
    "odd_functions",
    "as_text",
    "two_graphs",
)

ASKED = {
    "the tag-sets": ("two_graphs", []),
    "the tag-set of a Keras export": ("keras_softmax", []),
    "operations without a tag-set": ("half_plus_two", ["--list_ops"]),
    "the signatures of a graph": ("several_signatures", ["--tag_set=serve"]),
    "the signatures of a graph with two tags": ("two_graphs", ["--tag_set=gpu,serve"]),
    "the operations of a graph": ("odd_functions", ["--tag_set=serve", "--list_ops"]),
    "one signature": ("odd_functions", ["--tag_set=serve", "--signature_def=two"]),
    "one signature and the operations": (
        "classifier_parsing",
        ["--tag_set=serve", "--signature_def=predict", "--list_ops"],
    ),
}


def two_graphs(version: Path, shelf: Shelf) -> None:
    """A SavedModel of TensorFlow 1 with one graph for a CPU and one for a GPU."""
    saved_model = read_saved_model(shelf.version("v1_classifier"))
    other = saved_model.meta_graphs.add()
    other.CopyFrom(saved_model.meta_graphs[0])
    other.meta_info_def.tags.append("gpu")
    version.mkdir()
    (version / "saved_model.pb").write_bytes(saved_model.SerializeToString())


def as_text(version: Path, shelf: Shelf) -> None:
    """A SavedModel in protobuf's text form."""
    version.mkdir()
    saved_model = read_saved_model(shelf.version("several_signatures"))
    text = text_format.MessageToString(saved_model)
    (version / "saved_model.pbtxt").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def folders(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The folder of each model's version."""
    own = tmp_path_factory.mktemp("shown")
    odd_functions(own / "odd_functions")
    as_text(own / "as_text", shelf)
    two_graphs(own / "two_graphs", shelf)
    return {
        **{name: shelf.version(name) for name in (*KERAS, *BUILDER, *MODULES, *OTHERS)},
        **{name: ESTIMATORS / name / "1" for name in ESTIMATOR},
        **{path.name: path for path in own.iterdir()},
    }


@pytest.fixture(scope="module")
def expected(folders: Mapping[str, Path]) -> Callable[[str, list[str]], str]:
    """TensorFlow's answers, all of them asked for at once."""
    asked = [(name, ["--all"]) for name in ALL_OF] + list(ASKED.values())
    texts = saved_model_cli([[f"--dir={folders[name]}", *words] for name, words in asked])
    by_words = {(name, *words): text for (name, words), text in zip(asked, texts, strict=True)}
    return lambda name, words: by_words[(name, *words)]


@pytest.mark.parametrize("name", ALL_OF)
def test_all_is_shown_as_by_tensorflow(
    name: str,
    folders: Mapping[str, Path],
    expected: Callable[[str, list[str]], str],
    capsys: pytest.CaptureFixture[str],
):
    """Exports of Keras, of the builder, of Estimators and of modules, each line the same."""
    assert show(f"--dir={folders[name]}", "--all") == 0

    assert capsys.readouterr().out.splitlines() == expected(name, ["--all"]).splitlines()


@pytest.mark.parametrize(("name", "words"), ASKED.values(), ids=ASKED.keys())
def test_a_part_is_shown_as_by_tensorflow(
    name: str,
    words: list[str],
    folders: Mapping[str, Path],
    expected: Callable[[str, list[str]], str],
    capsys: pytest.CaptureFixture[str],
):
    """Tag-sets, signatures by name, one signature, operations."""
    assert show(f"--dir={folders[name]}", *words) == 0

    assert capsys.readouterr().out == expected(name, words)


def test_the_oracle_has_something_to_say(expected: Callable[[str, list[str]], str]):
    """The functions of a model are listed by TensorFlow, so that the comparisons are ones."""
    text = expected("odd_functions", ["--all"])

    assert text.count("Option #") > 30
    assert "N/A" not in text


def show(*words: str) -> int:
    return main.run(["salver", "show", *words], environ={}, serve_models=FakeServe())
