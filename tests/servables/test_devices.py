"""Models on devices: pinned by their exporters, chosen for them by their server, or missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.servable_id import ServableId
from salver.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from salver.protos.session_config_pb2 import ConfigProto
from salver.servables.device_placement import PlacedOp, available_devices, placements
from salver.servables.devices import device_name, device_of, model_devices
from salver.servables.libtensorflow import LibTensorFlow
from salver.servables.placed_session import load_session_on
from salver.servables.platform import PlatformContext
from salver.servables.tensorflow import SavedModel, SessionConfig, TensorFlowRuntime, platform
from saved_models import Shelf, read_saved_model, signature_answer

FOUR_CPUS = ConfigProto(device_count={"CPU": 4}).SerializeToString()


@pytest.fixture(scope="module")
def library() -> LibTensorFlow:
    """TensorFlow, opened once for the module."""
    return LibTensorFlow()


@pytest.fixture
def load() -> Iterator:
    """Load a version with a session config, on a device; it is closed after the test."""
    loaded: list[SavedModel] = []

    def load_one(version: Path, config: bytes = FOUR_CPUS, device: str = "") -> SavedModel:
        runtime = TensorFlowRuntime(config=SessionConfig(base=config))
        loaded.append(runtime.load(version, device))
        return loaded[-1]

    yield load_one
    for servable in loaded:
        servable.close()


def answer(servable: SavedModel, **inputs: np.ndarray) -> list[np.ndarray]:
    signature = servable.signatures["serving_default"]
    feeds = {signature.inputs[alias].name: value for alias, value in inputs.items()}
    return servable.run(feeds, [info.name for info in signature.outputs.values()])


def ops_of(library: LibTensorFlow, version: Path, device: str = "") -> list[PlacedOp]:
    found = {
        one.signature: one for one in placements(library, version, ["serve"], FOUR_CPUS, device)
    }
    assert found["serving_default"].error is None
    return list(found["serving_default"].ops)


def devices_of_kind(ops: list[PlacedOp], *kinds: str) -> set[str]:
    return {op.device for op in ops if op.op in kinds}


# --- Where operations run -------------------------------------------------------------------------


def test_a_session_config_makes_virtual_cpus(library: LibTensorFlow):
    """``device_count`` gives a session as many CPUs as it says."""
    assert available_devices(library, FOUR_CPUS) == [f"/device:CPU:{n}" for n in range(4)]


@pytest.mark.parametrize(("model", "device"), [("v1_on_cpu_1", "CPU:1"), ("on_cpu_2", "CPU:2")])
def test_ops_run_where_their_exporter_pinned_them(library, shelf: Shelf, model: str, device: str):
    """The pinned product runs there, the rest on the first CPU; in a function as outside of one."""
    ops = ops_of(library, shelf.version(model))

    assert devices_of_kind(ops, "Mul") == {f"/device:{device}"}
    assert devices_of_kind(ops, "AddV2") == {"/device:CPU:0"}


@pytest.mark.parametrize(("model", "device"), [("v1_on_cpu_1", "CPU:1"), ("on_cpu_2", "CPU:2")])
def test_a_model_runs_on_the_device_its_server_chose(
    library, shelf: Shelf, model: str, device: str
):
    """What is not pinned moves, what the exporter pinned stays."""
    ops = ops_of(library, shelf.version(model), "/device:CPU:3")

    assert devices_of_kind(ops, "Mul") == {f"/device:{device}"}
    assert devices_of_kind(ops, "AddV2") == {"/device:CPU:3"}


def test_a_whole_keras_model_moves(library: LibTensorFlow, shelf: Shelf):
    """Layers and variables of a Keras export are all on the device, functions included."""
    ops = ops_of(library, shelf.version("keras_cnn"), "/device:CPU:2")

    computing = ("Conv2D", "_FusedConv2D", "MaxPool", "MatMul", "_FusedMatMul", "VarHandleOp")
    assert devices_of_kind(ops, *computing) == {"/device:CPU:2"}


INPUTS: dict[str, dict[str, np.ndarray]] = {
    "half_plus_two": {"x": np.array([1, 2, 5], np.float32)},
    "keras_cnn": {"keras_tensor": np.linspace(0, 1, 784, dtype=np.float32).reshape(1, 28, 28, 1)},
    "v1_half_plus_two": {"x": np.array([[1.0], [4.0]], np.float32)},
    "v1_main_op": {"number": np.array([0, 1, 99], np.int64)},
    "v1_legacy_init_op": {"number": np.array([1, 0], np.int64)},
    "v1_on_cpu_1": {"x": np.array([3], np.float32)},
    "on_cpu_2": {"x": np.array([3], np.float32)},
}


@pytest.mark.parametrize("model", INPUTS)
def test_answers_are_the_same_on_any_device(load, shelf: Shelf, model: str):
    """Variables, assets, tables and init ops of either TensorFlow come along."""
    version = shelf.version(model)
    plain = answer(load(version), **INPUTS[model])
    moved = answer(load(version, device="/device:CPU:3"), **INPUTS[model])

    assert [array.tolist() for array in moved] == [array.tolist() for array in plain]


def test_answers_on_a_device_are_tensorflows(load, shelf: Shelf):
    """TensorFlow's own session says the same."""
    version = shelf.version("v1_main_op")
    (name,) = answer(load(version, device="/device:CPU:1"), **INPUTS["v1_main_op"])

    assert name.tolist() == signature_answer(version, INPUTS["v1_main_op"])["name"].tolist()


def test_the_platform_picks_the_device_by_the_models_name(shelf: Shelf):
    """Each model has its own device; one that is not there fails that model's load alone."""
    make_loader = platform(
        PlatformContext("tensorflow", session_config=FOUR_CPUS, model_devices=("far=CPU:9",))
    )
    path = str(shelf.version("half_plus_two"))
    near, far = (make_loader(ServableId(name, 1), path) for name in ("near", "far"))
    near.load()

    with pytest.raises(FailedPrecondition, match="is to run on /device:CPU:9, and there are only"):
        far.load()
    near.unload()


# --- Devices that are not there -------------------------------------------------------------------

TENSORFLOWS_TEXT = (
    "Cannot assign a device for operation mul: {{node mul}} was explicitly assigned to "
    "/device:GPU:0 but available devices are [ /job:localhost/replica:0/task:0/device:CPU:0 ]. "
    "Make sure the device specification refers to a valid device."
)


@pytest.fixture
def without_gpu(library: LibTensorFlow) -> None:
    """Skip where there is a GPU: nothing is missing there."""
    if any("GPU" in name for name in available_devices(library)):
        pytest.skip("this machine has a GPU")


@pytest.mark.usefixtures("without_gpu")
def test_a_model_pinned_to_a_missing_gpu_gives_tensorflow_servings_error(load, shelf: Shelf):
    """The text is the one that TensorFlow Serving gives, to the letter."""
    with pytest.raises(InvalidArgument) as raised:
        load(shelf.version("gpu_only"), b"")

    assert raised.value.message.startswith(TENSORFLOWS_TEXT)


@pytest.mark.usefixtures("without_gpu")
def test_soft_placement_runs_it_on_the_cpu(load, shelf: Shelf):
    """With ``allow_soft_placement`` the same model answers."""
    config = ConfigProto(allow_soft_placement=True).SerializeToString()
    (y,) = answer(load(shelf.version("gpu_only"), config), x=np.array([1, 2], np.float32))

    assert y.tolist() == [2.5, 3.0]


def test_a_device_that_is_not_there_is_refused(library: LibTensorFlow, shelf: Shelf):
    """It does not quietly become another one."""
    with pytest.raises(FailedPrecondition, match=r"on /device:XPU:7, .* only /device:CPU:0"):
        load_session_on("/device:XPU:7", library, shelf.version("half_plus_two"), ["serve"])


# --- Loads on a device that fail ------------------------------------------------------------------


def copied(shelf: Shelf, model: str, folder: Path) -> Path:
    return Path(shutil.copytree(shelf.version(model), folder / "1"))


def test_wrong_tags_are_told_in_tensorflows_words(load, shelf: Shelf):
    """As without a device."""
    with pytest.raises(NotFound, match=r"matching supplied tags: \{ serve \}"):
        load(shelf.version("other_tag"), device="/device:CPU:1")


def test_a_graph_that_is_cut_off_is_told(load, shelf: Shelf, tmp_path: Path):
    """It is found before TensorFlow sees it."""
    version = copied(shelf, "half_plus_two", tmp_path)
    graph = version / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-500])

    with pytest.raises(DataLoss, match="cut off; copy it anew"):
        load(version, device="/device:CPU:1")


def test_variables_that_are_damaged_are_told_in_tensorflows_words(load, shelf: Shelf):
    """The restore is TensorFlow's."""
    with pytest.raises(Exception, match="Read less bytes than requested"):
        load(shelf.version("truncated_variables"), device="/device:CPU:1")


def test_an_export_in_text_keeps_tensorflows_choice(load, shelf: Shelf, tmp_path: Path):
    """``saved_model.pbtxt`` loads as ever, and with a device of its own says what helps."""
    from google.protobuf import text_format

    version = copied(shelf, "half_plus_two", tmp_path)
    text = text_format.MessageToString(read_saved_model(version))
    (version / "saved_model.pb").unlink()
    (version / "saved_model.pbtxt").write_text(text)
    (y,) = answer(load(version), x=np.array([1], np.float32))

    assert y.tolist() == [2.5]
    with pytest.raises(InvalidArgument, match="export the model in binary"):
        load(version, device="/device:CPU:1")


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["/device:GPU:1", "GPU:1", "gpu:1", "/gpu:1", "/job:localhost/replica:0/task:0/device:GPU:1"],
)
def test_every_way_to_write_a_device_means_the_same(text: str):
    """TensorFlow has several, too."""
    assert device_name(text) == "/device:GPU:1"


@pytest.mark.parametrize(
    "text", ["", "GPU", "1", "/device:GPU:", "/job:other/device:GPU:0", "a b:0"]
)
def test_what_is_no_device_is_refused(text: str):
    """The error shows how to write one."""
    with pytest.raises(InvalidArgument, match="write /device:GPU:0"):
        device_name(text)


@given(st.text(max_size=30))
def test_any_text_is_a_device_or_refused(text: str):
    """A name that comes out goes in again."""
    try:
        name = device_name(text)
    except InvalidArgument:
        return

    assert device_name(name) == name


def test_models_have_their_own_devices_and_a_star_is_all_others():
    """The last equals sign divides: a model's name may have some."""
    devices = model_devices(["a=GPU:1", "b=c = /cpu:0", "*=CPU:2"])

    assert [device_of(name, devices) for name in ("a", "b=c", "z")] == [
        "/device:GPU:1",
        "/device:CPU:0",
        "/device:CPU:2",
    ]
    assert device_of("z", model_devices(["a=GPU:1"])) == ""


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        (["GPU:1"], "write NAME=DEVICE"),
        (["=GPU:1"], "write NAME=DEVICE"),
        (["a=fast"], "'fast' names no device"),
        (["a=GPU:0", "a=GPU:1"], "names 'a' twice"),
    ],
)
def test_entries_that_say_nothing_are_refused(entries: list[str], text: str):
    """Each says what is wrong with it."""
    with pytest.raises(InvalidArgument, match=text):
        model_devices(entries)


# --- Where there is a GPU -------------------------------------------------------------------------

ON_THE_GPU = """
import sys
from pathlib import Path
from salver.servables.device_placement import available_devices, placements
from salver.servables.libtensorflow import LibTensorFlow

library = LibTensorFlow()
if "/device:GPU:0" not in available_devices(library):
    print("none")
    sys.exit()
pinned, free = map(Path, sys.argv[1:])
for version, device in ((pinned, ""), (free, "/device:GPU:0")):
    for placement in placements(library, version, ["serve"], b"", device):
        print({op.device for op in placement.ops if op.op in ("Mul", "AddV2")} or placement.error)
"""


@pytest.mark.skipif(
    not any(Path("/dev").glob("nvidia[0-9]*")), reason="there is no GPU in this machine"
)
def test_models_run_on_the_gpu(shelf: Shelf):
    """One that is pinned there, and one that its server put there."""
    versions = [str(shelf.version(name)) for name in ("gpu_only", "half_plus_two")]
    environment = {name: value for name, value in os.environ.items() if "VISIBLE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", ON_THE_GPU, *versions],
        env={**environment, "TF_FORCE_GPU_ALLOW_GROWTH": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    if done.stdout.strip() == "none":
        pytest.skip("this TensorFlow sees no GPU; tensorflow[and-cuda] would")

    assert done.stdout.splitlines() == ["{'/device:GPU:0'}"] * 2
