"""The platforms in ``examples/platforms``: what they serve, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from installed_platforms import install
from salver.apis.requests import PredictRequest
from salver.core.servable_id import ServableId
from salver.errors import DeadlineExceeded, InvalidArgument, NotFound, ServingError
from salver.inference import predict
from salver.servables.guarded import GuardedPlatform
from salver.servables.platform import PlatformContext
from salver.servables.servable import Servable

EXAMPLES = Path(__file__).parents[1] / "examples" / "platforms"
ID = ServableId("m", 1)

PIPELINE = {
    "steps": [
        {"part": "near", "signature": "serving_default", "takes": {"images": "images"},
         "gives": {"digits": "digits", "scores": "nearness"}},
        {"part": "words", "signature": "serving_default", "takes": {"keys": "digits"},
         "gives": {"values": "words"}},
    ],
    "outputs": {"words": "words", "scores": ["nearness", "nearness"]},
}  # fmt: skip
PARTS = {
    "near": {"platform": "nearest_digit", "path": "near"},
    "words": {"platform": "lookup_table", "path": "words"},
}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's package, as pip would have installed it."""
    names = ("composite", "lookup_table", "nearest_digit")
    points = {name: f"{name}:platform" for name in names}
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", "examples", points)))


def load(platform: str, path: Path) -> Servable:
    loader = GuardedPlatform(PlatformContext(platform)).make_loader(ID, str(path))
    loader.load()
    return loader.servable()


def ask(servable: Servable, signature: str = "serving_default", **inputs: np.ndarray):
    return predict(servable, PredictRequest(inputs, signature))


def strings(*items: bytes) -> np.ndarray:
    return np.array(items, object)


def table(folder: Path, text: str = "0,zero\n1,one\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "table.csv").write_text(text)
    return folder


def averages(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "averages.npy", np.eye(10, 784, dtype=np.float32))
    return folder


@pytest.fixture
def composite(tmp_path: Path) -> Callable[..., Path]:
    """Write a version of a composite."""

    def write(parts: Any = PARTS, **signatures: Any) -> Path:
        folder = tmp_path / "composite"
        folder.mkdir()
        averages(folder / "near")
        table(folder / "words")
        plan = {"parts": parts, "signatures": signatures}
        (folder / "composite.json").write_text(json.dumps(plan))
        return folder

    return write


def test_a_table_answers_keys_with_values(tmp_path: Path):
    """And says which of them it does not have."""
    answer = ask(load("lookup_table", table(tmp_path / "1")), keys=strings(b"1", b"2", b"0"))

    assert answer["values"].tolist() == [b"one", b"", b"zero"]
    assert answer["found"].tolist() == [True, False, True]


def test_a_table_with_a_line_that_is_no_pair_is_refused(tmp_path: Path):
    """By its number."""
    with pytest.raises(InvalidArgument, match=r"line 2 of table\.csv is no key and value"):
        load("lookup_table", table(tmp_path / "1", "0,zero\n1,one,uno\n"))


def test_the_nearest_average_is_the_digit(tmp_path: Path):
    """Scores add up to one, and the likeliest is the digit."""
    answer = ask(load("nearest_digit", averages(tmp_path / "1")), images=np.eye(2, 784, 3, "f4"))

    assert answer["digits"].tolist() == [b"3", b"4"]
    assert answer["scores"].argmax(1).tolist() == [3, 4]
    assert answer["scores"].sum(1) == pytest.approx(1)


def test_a_composite_leads_from_one_part_to_the_next(composite):
    """Images become digits, and those words; several values become their mean."""
    servable = load("composite", composite(serving_default=PIPELINE))

    answer = ask(servable, images=np.eye(2, 784, dtype="f4"))

    assert answer["words"].tolist() == [b"zero", b"one"]
    assert answer["scores"].argmax(1).tolist() == [0, 1]
    assert servable.predictable


def test_a_composite_has_the_signatures_of_its_parts(composite):
    """Each can be asked by itself."""
    servable = load("composite", composite(serving_default=PIPELINE))

    answer = ask(servable, "words/serving_default", keys=strings(b"0"))

    assert set(servable.signatures) == {
        "near/classify",
        "near/serving_default",
        "serving_default",
        "words/serving_default",
    }
    assert answer["values"].tolist() == [b"zero"]


def test_all_steps_share_the_time_there_is(composite):
    """None is begun when it is over."""
    servable = load("composite", composite(serving_default=PIPELINE))

    with pytest.raises(DeadlineExceeded, match="before the last step"):
        servable.run({"images": np.eye(1, 784, dtype="f4")}, ["serving_default:words"], timeout_s=0)


def step(**changes: Any) -> dict[str, Any]:
    return {**PIPELINE, "steps": [{**PIPELINE["steps"][0], **changes}]}


@pytest.mark.parametrize(
    ("parts", "signature", "complaint"),
    [
        (PARTS, step(part="far"), "there is no part far; there are near, words"),
        (PARTS, step(signature="s"), "part near has no signature s; it has serving_default, cl"),
        (PARTS, step(takes={"x": "x"}), "serving_default of part near has no x; it has images"),
        (PARTS, step(gives={"y": "y"}), "of part near has no y; it has digits, scores"),
        (PARTS, step(), "output words of serving_default is made of words, which is not there"),
        ({"a": {"platform": "lookup_table", "path": "../a"}}, PIPELINE, "part a lies outside"),
        ({"a": {"platform": "no_such", "path": "a"}}, PIPELINE, "there is no platform no_such"),
        ({"a": {"path": "a"}}, PIPELINE, "KeyError: 'platform' (composite.py:"),
    ],
)
def test_a_composite_that_does_not_fit_together_says_where(composite, parts, signature, complaint):
    """When it is loaded, not when it is asked."""
    with pytest.raises(ServingError) as raised:
        load("composite", composite(parts, serving_default=signature))

    assert complaint in raised.value.message


def test_a_composite_needs_its_file(tmp_path: Path):
    """Folders alone are not enough."""
    with pytest.raises(NotFound, match=r"has no composite\.json"):
        load("composite", tmp_path)


def test_parts_are_unloaded_with_the_whole_and_when_one_of_them_fails(tmp_path: Path, monkeypatch):
    """In reverse, each once."""
    code = """
    from salver.servables.python import Call, PythonPlatform, Tensor

    told = []

    class Part:
        signatures = {"s": Call({"x": Tensor("int8")}, {"y": Tensor("int8")})}
        def __init__(self, path):
            if (path / "bad").exists():
                raise OSError(5, "gone")
            self.name = path.name
            told.append(f"{path.name} loaded")
        def predict(self, inputs): return inputs
        def close(self): told.append(f"{self.name} closed")

    platform = PythonPlatform(Part)
    """
    install(tmp_path / "site", "parts", {"part": "noting_part:platform"}, noting_part=code)
    folder = tmp_path / "1"
    (folder / "b").mkdir(parents=True)
    parts = {name: {"platform": "part", "path": name} for name in "ab"}
    (folder / "composite.json").write_text(json.dumps({"parts": parts, "signatures": {}}))
    loader = GuardedPlatform(PlatformContext("composite")).make_loader(ID, str(folder))

    loader.load()
    loader.unload()
    (folder / "b" / "bad").touch()
    with pytest.raises(ServingError, match="gone"):
        loader.load()
    import noting_part

    once = ["a loaded", "b loaded", "b closed", "a closed"]
    assert noting_part.told == [*once, "a loaded", "a closed"]
