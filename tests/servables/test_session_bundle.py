"""Legacy SessionBundles: loaded as TensorFlow Serving's of 2016 did, or refused as today's does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.core.servable_id import ServableId
from salver.dtypes import DType
from salver.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
    Unimplemented,
)
from salver.protos.session_bundle_pb2 import AssetFile, Signature, Signatures
from salver.servables.platform import PlatformContext
from salver.servables.session_bundle import (
    MAX_COLLECTION_BYTES,
    MAX_GRAPH_BYTES,
    is_session_bundle,
    read_bundle,
    signature_defs,
)
from salver.servables.tensorflow import SavedModel, SessionConfig, TensorFlowRuntime, platform
from salver.signature import TensorInfo
from saved_models import Shelf, serialized_example, signature_answer
from session_bundles import BUNDLES, BundleShelf, X, edited, generic, packed

SIGNATURES = "tensorflow.serving.Signatures"


@pytest.fixture(scope="module")
def runtime() -> TensorFlowRuntime:
    """One runtime for the module: its library is opened once."""
    return TensorFlowRuntime(session_bundles=True)


@pytest.fixture
def load(runtime: TensorFlowRuntime) -> Iterator[Callable[[Path], SavedModel]]:
    """Load a version folder; it is closed after the test."""
    loaded: list[SavedModel] = []

    def load_one(version: Path) -> SavedModel:
        loaded.append(runtime.load(version))
        return loaded[-1]

    yield load_one
    for servable in loaded:
        servable.close()


@pytest.fixture
def copied(bundle_shelf: BundleShelf, tmp_path: Path) -> Callable[[str], Path]:
    """A version folder that a test may spoil."""

    def copy(name: str) -> Path:
        version = tmp_path / "7"
        shutil.copytree(bundle_shelf.version(name), version)
        return version

    return copy


def examples() -> np.ndarray:
    return np.array([serialized_example(x=[x]) for x in X], object)


def ask(
    servable: SavedModel, signature_name: str = "serving_default", **inputs: np.ndarray
) -> dict[str, np.ndarray]:
    """Run a signature with inputs by alias; outputs by alias."""
    signature = servable.signatures[signature_name]
    feeds = {signature.inputs[alias].name: value for alias, value in inputs.items()}
    fetches = [info.name for info in signature.outputs.values()]
    return dict(zip(signature.outputs, servable.run(feeds, fetches), strict=True))


# --- What loads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BUNDLES.keys() - {"half_plus_two", "classifier"}))
def test_every_kind_of_checkpoint_and_op_is_restored(load, bundle_shelf: BundleShelf, name: str):
    """Shards, one file, the second format, the ops of TensorFlow 0.x: answers to the last bit."""
    servable = load(bundle_shelf.version(name))
    (y,) = ask(servable, x=np.array(X, np.float32).reshape(-1, 1)).values()

    assert y.tolist() == bundle_shelf.answers(name)["y:0"]


def test_every_signature_of_the_usual_bundle_answers(load, bundle_shelf: BundleShelf):
    """The default one, inputs and outputs beside it, and one with a name of its own."""
    servable = load(bundle_shelf.version("half_plus_two"))
    expected = bundle_shelf.answers("half_plus_two")["y:0"]
    x = np.array(X, np.float32).reshape(-1, 1)
    methods = {name: found.method_name for name, found in servable.signatures.items()}

    assert methods == {
        "serving_default": "tensorflow/serving/regress",
        "again": "tensorflow/serving/regress",
        "predict": "tensorflow/serving/predict",
    }
    assert ask(servable, inputs=examples())["outputs"].tolist() == expected
    assert ask(servable, "again", inputs=examples())["outputs"].tolist() == expected
    assert ask(servable, "predict", x=x)["y"].tolist() == expected


def test_a_table_is_filled_from_an_asset_by_the_init_op(load, bundle_shelf: BundleShelf):
    """The class names stand in a file, whose place the exporter did not know."""
    servable = load(bundle_shelf.version("classifier"))
    answer = ask(servable, inputs=examples())

    assert answer["scores"].tolist() == bundle_shelf.answers("classifier")["TopKV2:0"]
    assert answer["classes"].tolist() == [[b"left", b"right", b"neither"]] * 3


def test_types_and_shapes_come_from_the_graph(load, bundle_shelf: BundleShelf):
    """A bundle names tensors and no more; REST and metadata need to know what they are."""
    servable = load(bundle_shelf.version("half_plus_two"))
    predicting, default = servable.signatures["predict"], servable.signatures["serving_default"]

    assert predicting.inputs == {"x": TensorInfo("x:0", DType.FLOAT, (-1, 1))}
    assert predicting.outputs == {"y": TensorInfo("y:0", DType.FLOAT, (-1, 1))}
    assert default.inputs == {"inputs": TensorInfo("tf_example:0", DType.STRING, (-1,))}


def test_a_reference_has_the_type_of_what_it_refers_to(load, copied):
    """A signature may give a variable of TensorFlow 1 itself, whose type is a twin."""
    version = copied("shards")
    with edited(version) as meta_graph:
        _set_signatures(meta_graph, Signatures(named_signatures=_pair(x="x:0", y="a:0")))
    servable = load(version)
    output = servable.signatures["serving_default"].outputs["y"]
    (value,) = servable.run({}, [output.name])

    assert output == TensorInfo("a:0", DType.FLOAT, ())
    assert value.tolist() == 0.5


def test_a_saved_model_beside_it_comes_first(load, copied, shelf: Shelf):
    """As in TensorFlow Serving of the time when there were both."""
    version = copied("half_plus_two")
    shutil.copytree(shelf.version("half_plus_two"), version, dirs_exist_ok=True)
    servable = load(version)
    x = np.array(X, np.float32)
    expected = signature_answer(shelf.version("half_plus_two"), {"x": x})

    assert not is_session_bundle(version)
    assert ask(servable, x=x)["y"].tolist() == expected["y"].tolist()


def test_the_runtime_refuses_unless_it_is_told_otherwise(bundle_shelf: BundleShelf):
    """What TensorFlow Serving says today, word for word."""
    with pytest.raises(Unimplemented) as refused:
        TensorFlowRuntime().load(bundle_shelf.version("half_plus_two"))

    assert str(refused.value) == "UNIMPLEMENTED: Session Bundle is deprecated and removed."


def test_the_platform_is_told_by_its_context(bundle_shelf: BundleShelf):
    """The one value that the server's option becomes."""
    make_loader = platform(PlatformContext("tensorflow", session_bundles=True))
    loader = make_loader(ServableId("m", 123), str(bundle_shelf.version("shards")))
    loader.load()
    names = set(loader.servable().signatures)
    loader.unload()

    assert names == {"serving_default"}


def test_a_bundle_runs_on_the_device_that_its_server_chose(bundle_shelf: BundleShelf):
    """Or is refused, where there is no such device."""
    two_cpus = SessionConfig(base=b"\x0a\x07\x0a\x03CPU\x10\x02")  # device_count
    runtime = TensorFlowRuntime(config=two_cpus, session_bundles=True)
    version = bundle_shelf.version("shards")
    servable = runtime.load(version, "/device:CPU:1")
    (y,) = ask(servable, x=np.array([[1.0]], np.float32)).values()
    servable.close()

    assert y.tolist() == [[2.5]]
    with pytest.raises(FailedPrecondition, match=r"is to run on /device:GPU:7, and there are only"):
        runtime.load(version, "/device:GPU:7")


# --- What does not --------------------------------------------------------------------------------


def _pair(**tensors: str) -> dict[str, Signature]:
    """Generic signatures ``inputs`` and ``outputs`` over tensors by name."""

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    named = {alias: Named(name) for alias, name in tensors.items()}
    return {"inputs": generic(x=named["x"]), "outputs": generic(y=named["y"])}


def _set_signatures(meta_graph: Any, signatures: Signatures) -> None:
    values = meta_graph.collection_def["serving_signatures"].any_list.value
    del values[:]
    values.append(packed(SIGNATURES, signatures))


def lose_a_shard(version: Path) -> None:
    (version / "export-00001-of-00002").unlink()


def lose_all_variables(version: Path) -> None:
    for shard in version.glob("export-*"):
        shard.unlink()


def lose_an_asset(version: Path) -> None:
    (version / "assets" / "labels.txt").unlink()


def cut_the_graph_short(version: Path) -> None:
    content = (version / "export.meta").read_bytes()
    (version / "export.meta").write_bytes(content[: len(content) // 2])


def replace_the_graph(version: Path) -> None:
    (version / "export.meta").write_bytes(b"\xff no protobuf")


def empty_the_graph(version: Path) -> None:
    (version / "export.meta").write_bytes(b"")


def spoil_a_shard(version: Path) -> None:
    (version / "export-00000-of-00002").write_bytes(b"no table")


def drop_the_signatures(version: Path) -> None:
    with edited(version) as meta_graph:
        del meta_graph.collection_def["serving_signatures"]


def leave_one_generic(version: Path) -> None:
    with edited(version) as meta_graph:
        _set_signatures(
            meta_graph, Signatures(named_signatures={"inputs": _pair(x="x", y="y")["inputs"]})
        )


def name_no_tensor(version: Path) -> None:
    with edited(version) as meta_graph:
        _set_signatures(meta_graph, Signatures(named_signatures=_pair(x="x:0", y="z:0")))


def name_no_output(version: Path) -> None:
    with edited(version) as meta_graph:
        _set_signatures(meta_graph, Signatures(named_signatures=_pair(x="x:0", y="y:5")))


def pack_another_kind(version: Path) -> None:
    with edited(version) as meta_graph:
        (value,) = meta_graph.collection_def["serving_signatures"].any_list.value
        value.type_url = "type.googleapis.com/tensorflow.serving.Manifest"


def give_two_graphs(version: Path) -> None:
    with edited(version) as meta_graph:
        values = meta_graph.collection_def["serving_graph"].any_list.value
        values.append(values[0])


def give_two_init_ops(version: Path) -> None:
    with edited(version) as meta_graph:
        meta_graph.collection_def["serving_init_op"].node_list.value.append("y")


def use_an_unknown_op(version: Path) -> None:
    with edited(version) as meta_graph:
        (value,) = meta_graph.collection_def["serving_graph"].any_list.value
        value.value = value.value.replace(b"\x12\x05AddV2", b"\x12\x05AddV9")


def reach_outside(version: Path) -> None:
    with edited(version) as meta_graph:
        (value,) = meta_graph.collection_def["serving_assets"].any_list.value
        asset = AssetFile.FromString(value.value)
        asset.filename = "../../secret"
        value.value = asset.SerializeToString()


BAD: dict[Callable[[Path], None], tuple[str, type[ServingError], str]] = {
    lose_a_shard: ("shards", NotFound, "it lacks export-00001-of-00002; if it is still being"),
    lose_all_variables: ("shards", NotFound, "it lacks export-00000-of-00001; if it is still"),
    lose_an_asset: ("classifier", NotFound, "it lacks assets/labels.txt; if it is still being"),
    cut_the_graph_short: ("shards", DataLoss, "export.meta cannot be read (a field is cut off)"),
    replace_the_graph: ("shards", DataLoss, "export.meta cannot be read"),
    empty_the_graph: ("shards", FailedPrecondition, "export.meta holds no graph; export"),
    spoil_a_shard: ("shards", DataLoss, "its variables cannot be restored; copy it anew, or"),
    drop_the_signatures: (
        "shards",
        FailedPrecondition,
        "serving_signatures holds no set of signatures and has to hold one; export",
    ),
    leave_one_generic: (
        "shards",
        FailedPrecondition,
        "no signature that can be served (no default signature; named ones: 'inputs'). Export it",
    ),
    name_no_tensor: (
        "shards",
        NotFound,
        "its signature 'serving_default' names 'z:0', which its graph lacks; export the model",
    ),
    name_no_output: ("shards", NotFound, "names 'y:5', which its graph lacks; export the model"),
    pack_another_kind: (
        "shards",
        FailedPrecondition,
        "holds a type.googleapis.com/tensorflow.serving.Manifest, not a tensorflow.serving.Sig",
    ),
    give_two_graphs: ("shards", FailedPrecondition, "serving_graph holds 2 graphs and has to"),
    give_two_init_ops: ("classifier", FailedPrecondition, "serving_init_op holds 2 ops and has"),
    use_an_unknown_op: ("shards", NotFound, "in --custom_op_library): Op type not registered 'A"),
    reach_outside: ("classifier", InvalidArgument, "its asset '../../secret' lies outside of"),
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_bad_bundle_is_told_in_one_line(runtime, copied, spoil: Callable[[Path], None]):
    """Which version, what is wrong with it, what helps."""
    name, kind, words = BAD[spoil]
    version = copied(name)
    spoil(version)

    with pytest.raises(ServingError) as refused:
        runtime.load(version)

    assert type(refused.value) is kind
    assert refused.value.message.startswith(f"{version} is a SessionBundle; ")
    assert words in refused.value.message
    assert "\n" not in refused.value.message


def test_a_folder_in_the_place_of_the_graph_is_refused(runtime, tmp_path: Path):
    """Whatever lies there, it is read with care."""
    (tmp_path / "export.meta").mkdir()

    with pytest.raises(DataLoss, match=r"export.meta cannot be read: Is a directory; copy it anew"):
        runtime.load(tmp_path)


def test_a_part_of_no_reasonable_size_is_refused():
    """The graph may be large; what lies beside it may not."""
    name = b"\x0a\x12serving_signatures"
    size = MAX_COLLECTION_BYTES + 1
    value = b"\x12" + _varint(size) + bytes(size)
    entry = name + value
    content = b"\x12\x00\x22" + _varint(len(entry)) + entry

    with pytest.raises(InvalidArgument, match=r"a part of its export.meta has 16777217 bytes"):
        read_bundle(memoryview(content))


def test_a_graph_beyond_protobufs_limit_is_refused_unread(runtime, tmp_path: Path):
    """Nothing of it comes into memory; the file is a hole."""
    with (tmp_path / "export.meta").open("wb") as file:
        file.truncate(MAX_GRAPH_BYTES + 1)

    with pytest.raises(InvalidArgument, match=r"export.meta has 2147483648 bytes, more than the"):
        runtime.load(tmp_path)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_bundle_or_an_error_of_ours(content: bytes):
    """No file makes the reader stumble."""
    try:
        bundle = read_bundle(memoryview(content))
    except ServingError:
        return

    assert bundle.graph <= (len(content), len(content))


# --- Signatures -----------------------------------------------------------------------------------


def classified(scores: str = "s:0", classes: str = "") -> Signature:
    signature = Signature()
    signature.classification_signature.input.tensor_name = "e:0"
    signature.classification_signature.scores.tensor_name = scores
    signature.classification_signature.classes.tensor_name = classes
    return signature


def test_what_a_classification_leaves_out_is_left_out():
    """Scores without classes are as good as both."""
    (definition,) = signature_defs(Signatures(default_signature=classified())).values()

    assert definition.method_name == "tensorflow/serving/classify"
    assert {alias: info.name for alias, info in definition.inputs.items()} == {"inputs": "e:0"}
    assert {alias: info.name for alias, info in definition.outputs.items()} == {"scores": "s:0"}


def test_without_a_default_inputs_and_outputs_are_the_default():
    """Then a request that names no signature is a Predict."""
    definitions = signature_defs(Signatures(named_signatures=_pair(x="x:0", y="y:0")))

    assert {name: found.method_name for name, found in definitions.items()} == {
        "serving_default": "tensorflow/serving/predict"
    }


def test_a_default_that_is_generic_is_refused_in_tensorflow_servings_words():
    """It does not say what goes in and what comes out."""
    pair = _pair(x="x:0", y="y:0")
    signatures = Signatures(default_signature=pair["inputs"], named_signatures=pair)

    with pytest.raises(Unimplemented) as refused:
        signature_defs(signatures)

    assert refused.value.message == (
        "Only classification and regression default signatures are supported for up conversion."
    )


def test_inputs_that_are_no_generic_signature_make_no_predict():
    """They keep their name, and their method."""
    named = _pair(x="x:0", y="y:0") | {"inputs": classified()}

    assert signature_defs(Signatures(named_signatures=named)).keys() == {"inputs"}


def _varint(value: int) -> bytes:
    octets = []
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])
