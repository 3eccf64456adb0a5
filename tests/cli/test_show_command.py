"""``salver show``: words in, what there is to know of a SavedModel or one clear line out."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import FakeServe
from logged_requests import GOLDEN, WARMUP, classify_log, predict_log, vector_log, write_records
from salver.cli import main
from saved_models import ESTIMATORS, Shelf
from server_process import program
from walkthrough import blocks, steps

ESTIMATOR = ESTIMATORS / "classifier_raw" / "1"


def show(*words: str) -> int:
    return main.run(["salver", "show", *words], environ={}, serve_models=FakeServe())


@pytest.mark.parametrize(
    "words",
    [
        ["--dir={}", "--tag_set=serve", "--signature_def=predict"],
        ["--dir", "{}", "--tag_set", "serve", "--signature_def", "predict"],
        ["-dir={}", "--tag-set= serve ,", "--signature-def=predict"],
        ["--all", "{}", "--tag_set=serve", "--signature_def=predict", "--all=false"],
    ],
)
def test_an_option_is_written_as_one_likes(words: list[str], capsys: pytest.CaptureFixture[str]):
    """With a space or an equals sign, a dash or an underscore; the folder may stand alone."""
    assert show(*(word.format(ESTIMATOR) for word in words)) == 0
    assert capsys.readouterr().out.startswith(
        "The given SavedModel SignatureDef contains the following input(s):\n"
        "  inputs['x'] tensor_info:\n"
        "      dtype: DT_FLOAT\n"
        "      shape: (-1, 2)\n"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "it needs the folder of a version, as in: salver show --dir=/models/mnist/1"),
        (["--dir"], "--dir needs a value, as in --dir=…"),
        (["--dir="], "it needs the folder of a version, as in: salver show --dir=/models/mnist/1"),
        (["/a", "/b"], "it takes one folder; see salver show --help."),
        (["/a", "--al"], "there is no option --al; did you mean --all?"),
        (["/a", "--xyz=1"], "there is no option --xyz; see salver show --help."),
        (["/a", "--all=perhaps"], "--all takes true or false, and 'perhaps' is not."),
        (
            ["/a", "--signature_def=x"],
            "--signature_def needs --tag_set, too, as in --tag_set=serve",
        ),
    ],
)
def test_words_that_ask_for_nothing_end_with_2(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
):
    """And with the reason, on stderr."""
    assert show(*words) == 2
    assert capsys.readouterr() == ("", f"salver show: {text}\n")


def test_help_says_what_can_be_asked(capsys: pytest.CaptureFixture[str]):
    """Wherever it is asked for."""
    assert show("--dir", "--help") == 0
    assert capsys.readouterr().out.startswith("Usage: salver show --dir=DIR ")


def bad_folder(folder: Path, kind: str) -> Path:
    """Something that is no version's folder, and what it is told to be."""
    if kind == "model":
        for version in (3, 12, 7):
            shutil.copytree(ESTIMATOR, folder / str(version))
    elif kind == "lite":
        (folder / "model.tflite").touch()
    elif kind == "bundle":
        (folder / "export.meta").touch()
    elif kind == "pieces":
        (folder / "saved_model.cpb").touch()
    elif kind == "other files":
        for number in range(12):
            (folder / f"file{number:02}").touch()
    elif kind == "file":
        (folder / "saved_model.pb").touch()
        return folder / "saved_model.pb"
    elif kind == "hollow":
        (folder / "saved_model.pb").touch()
    elif kind == "folder in its place":
        (folder / "saved_model.pb").mkdir()
    elif kind == "cut off":
        whole = (ESTIMATOR / "saved_model.pb").read_bytes()
        (folder / "saved_model.pb").write_bytes(whole[: len(whole) // 2])
    elif kind == "no text":
        (folder / "saved_model.pbtxt").write_bytes(b"\xff\xfe")
    elif kind == "nothing there":
        return folder / "nowhere"
    return folder


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("model", "{0} is the folder of a model; its versions: 3, 7, 12. Show one of them, as in "),
        ("lite", "{0} holds a TensorFlow Lite model (model.tflite); only SavedModels can be shown"),
        ("bundle", "{0} holds a SessionBundle (export.meta); only SavedModels can be shown"),
        ("pieces", "{0} holds a SavedModel in pieces (saved_model.cpb), which only TensorFlow "),
        ("other files", "there is no saved_model.pb in {0}; what there is: 4 more, file04, file05"),
        ("empty", "there is no saved_model.pb in {0}; what there is: nothing"),
        (
            "file",
            "{0}/saved_model.pb is no folder; the folder of a version is asked for, as in {0}",
        ),
        ("hollow", "{0}/saved_model.pb has no graph in it: it is empty, or no SavedModel"),
        ("folder in its place", "{0}/saved_model.pb is no regular file"),
        ("cut off", "{0}/saved_model.pb is no SavedModel, or was cut off; export the model again"),
        ("no text", "{0}/saved_model.pbtxt is no SavedModel in text form: "),
        ("nothing there", "there is no folder {0}/nowhere"),
    ],
)
def test_what_is_no_saved_model_gets_one_line(
    kind: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """It says what was found and what would help."""
    folder = bad_folder(tmp_path, kind)

    assert show(str(folder), "--all") == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"salver show: {text.format(tmp_path)}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["--tag_set=serve,gpu"],
            "there is no MetaGraphDef with the tag-set 'gpu,serve'; there is 'serve'",
        ),
        (["--tag_set="], "there is no MetaGraphDef with the tag-set ''; there is 'serve'"),
        (
            ["--tag_set=serve", "--signature_def=classify"],
            "there is no signature 'classify'; there is predict",
        ),
        (
            ["--details", "--tag_set=serve", "--signature_def=classify"],
            "there is no signature 'classify'; there is predict",
        ),
    ],
)
def test_what_is_not_in_it_gets_one_line(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
):
    """With what is in it instead, and nothing on stdout."""
    assert show(str(ESTIMATOR), *words) == 1
    assert capsys.readouterr() == ("", f"salver show: {text}\n")


def test_details_tell_size_devices_and_recorded_requests(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """What is needed, and what was brought along, is read off the files."""
    version = Path(shutil.copytree(shelf.version("gpu_only"), tmp_path / "half" / "7"))
    warmup = [vector_log([1.0]), predict_log({"x": [2.0]}), classify_log([b""])]
    write_records(version / WARMUP, *warmup)
    write_records(version / GOLDEN, vector_log([1.0], [2.5]))
    (version / "variables").mkdir(exist_ok=True)
    (version / "variables" / "variables.index").write_bytes(b"x" * 2048)

    assert show(f"--dir={version}", "--details") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Size on disk: ")
    assert "  variables: 2.0 KiB" in lines
    assert "Missing, so that it cannot be served: variables/variables.data-00000-of-00001" in lines
    assert "Warmup requests: 3 (1 Classify, 2 Predict)" in lines
    assert "Golden requests: 1 (1 Predict)" in lines
    assert "  Devices that operations ask for:" in lines
    assert "    /device:GPU:0: 1 AddV2, 2 Const, 1 Mul, 1 Placeholder" in lines
    assert "    2 Const, 1 AddV2, 1 Mul, 1 NoOp, 1 Placeholder" in lines
    assert "signature_def['serving_default']:" in lines
    assert "  Batchable: yes" in lines
    assert "    curl -d '{\"instances\": [0.0]}' localhost:8501/v1/models/half:predict" in lines


def test_details_of_damaged_recordings_say_so(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A file of requests that cannot be read is told as such, and the rest all the same."""
    version = Path(shutil.copytree(shelf.version("half_plus_two"), tmp_path / "1"))
    path = write_records(version / WARMUP, vector_log([1.0]), vector_log([2.0]))
    path.write_bytes(path.read_bytes()[:-1])
    write_records(version / GOLDEN)

    assert show(str(version), "--details") == 0

    out = capsys.readouterr().out
    assert f"Warmup requests: {path} cannot be used: after 1 of them, " in out
    assert "Golden requests: none, though there is a file for them\n" in out
    assert "Devices that operations ask for:" in out


def test_details_say_why_a_signature_cannot_be_batched(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
):
    """Every input and output that does not leave its first dimension open is named."""
    assert show(str(shelf.version("several_signatures")), "--details") == 0

    out = capsys.readouterr().out
    by_name = {each.partition("'")[0]: each for each in out.split("\nsignature_def['")[1:]}
    assert "  Batchable: yes\n" in by_name["upper"]
    assert "  Batchable: no: it has no inputs\n" in by_name["read"]
    assert "  Batchable: no: input 'factor' has no dimensions\n" in by_name["scale"]
    assert "__saved_model_init_op" not in by_name


def test_details_can_be_of_one_signature_and_follow_the_rest(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
):
    """With --all they come last; with --signature_def there is one sample."""
    version = str(shelf.version("several_signatures"))

    assert show(version, "--tag_set=serve", "--signature_def=upper", "--details") == 0

    out = capsys.readouterr().out
    assert out.startswith("The given SavedModel SignatureDef contains the following input(s):\n")
    assert "\n\nSize on disk: " in out
    assert out.count("Batchable:") == 1


def test_the_page_is_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Every command of docs/show.md prints what stands below it."""
    shutil.copytree(ESTIMATORS / "regressor_raw" / "1", tmp_path / "line" / "1")
    page = (Path(__file__).parents[2] / "docs" / "show.md").read_text(encoding="utf-8")
    typed = [step for block in blocks(page) for step in steps(block.text)]
    assert len(typed) == 5

    for step in typed:
        command = step.command.replace("/models", str(tmp_path))
        show(*shlex.split(command)[2:])
        printed = "".join(capsys.readouterr()).replace(str(tmp_path), "/models")
        assert printed.strip("\n") == step.answer


def test_tensorflow_is_neither_imported_nor_loaded(shelf: Shelf):
    """A machine without TensorFlow can show a model, and one with it shows it at once."""
    code = (
        "import sys; from salver.cli import show; "
        f"show.run([{str(shelf.version('half_plus_two'))!r}, '--all', '--details']); "
        "maps = open('/proc/self/maps').read() if sys.platform == 'linux' else ''; "
        "print('LOADED', 'tensorflow' in sys.modules, 'libtensorflow' in maps)"
    )

    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60
    )

    assert finished.stdout.splitlines()[-1] == "LOADED False False"


def test_a_reader_may_leave_early(tmp_path: Path):
    """``salver show … | head -1`` ends without a word about the pipe."""
    with subprocess.Popen(
        [program("salver"), "show", str(ESTIMATOR), "--all"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as shown:
        assert shown.stdout is not None
        assert shown.stderr is not None
        shown.stdout.close()
        complaints = shown.stderr.read()

    assert shown.returncode == 0
    assert complaints == b""


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200), st.sampled_from(["saved_model.pb", "saved_model.pbtxt"]))
def test_any_bytes_are_shown_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, name: str
):
    """Whatever stands in the file, the command ends with 0 or 1, and says why if it is 1."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)

    code = show(str(folder), "--all", "--details")

    out, err = capsys.readouterr()
    assert (code, bool(out), bool(err)) in [(0, True, False), (1, False, True)]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_model_is_shown_or_refused(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
):
    """A few bytes of a real one overwritten, left out or put in: never anything but 0 or 1."""
    whole = bytearray((shelf.version("several_signatures") / "saved_model.pb").read_bytes())
    places = st.integers(0, len(whole))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(places)
        length = data.draw(st.integers(0, 16))
        whole[start : start + length] = data.draw(st.binary(max_size=16))
    (tmp_path / "saved_model.pb").write_bytes(whole)

    code = show(str(tmp_path), "--all", "--details")

    out, err = capsys.readouterr()
    assert (code, bool(out), bool(err)) in [(0, True, False), (1, False, True)]
