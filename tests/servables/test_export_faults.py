"""Exports that cannot be served: TensorFlow's own text, or one line of what is wrong and helps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import InvalidArgument, NotFound, PermissionDenied, ServingError
from salver.servables.export_faults import Asked, Export, explain, look_at
from salver.servables.tensorflow import TensorFlowRuntime
from saved_models import Shelf, read_saved_model, tensorflow

INDEX = "variables/variables.index"
SHARD = "variables/variables.data-00000-of-00001"

Break = Callable[[Path], object]


def edited(change: Callable[[Any], object]) -> Break:
    """Change the SavedModel message."""

    def breaks(version: Path) -> None:
        saved_model = read_saved_model(version)
        change(saved_model)
        (version / "saved_model.pb").write_bytes(saved_model.SerializeToString())

    return breaks


def cut(name: str, by: int) -> Break:
    """Take bytes off the end of a file."""

    def breaks(version: Path) -> None:
        (version / name).write_bytes((version / name).read_bytes()[:-by])

    return breaks


def versions(**values: int) -> Break:
    """Change which versions of TensorFlow may read the graph."""

    def change(saved_model: Any) -> None:
        for name, value in values.items():
            setattr(saved_model.meta_graphs[0].graph_def.versions, name, value)

    return edited(change)


def _tagged(*tags: str) -> Break:
    def change(saved_model: Any) -> None:
        saved_model.meta_graphs[0].meta_info_def.tags[:] = tags

    return edited(change)


def _op(name: str) -> Break:
    def change(saved_model: Any) -> None:
        for node in saved_model.meta_graphs[0].graph_def.node:
            if node.op == "VarHandleOp":
                node.op = name

    return edited(change)


def _asset(name: str) -> Break:
    """Give the asset of TensorFlow 1's kind another name."""

    def change(saved_model: Any) -> None:
        from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef

        held = saved_model.meta_graphs[0].collection_def["saved_model_assets"].any_list.value[0]
        asset = AssetFileDef()
        held.Unpack(asset)
        asset.filename = name
        held.Pack(asset)

    return edited(change)


def _only(*names: str) -> Break:
    """Replace all files by others."""

    def breaks(version: Path) -> None:
        shutil.rmtree(version)
        version.mkdir()
        for name in names:
            (version / name).parent.mkdir(exist_ok=True)
            (version / name).write_bytes(b"something")

    return breaks


def _needs_a_gpu_kernel(version: Path) -> None:
    """Add an op that only GPUs have a kernel for."""
    tf = tensorflow()
    with tf.Graph().as_default() as graph:
        ones = tf.ones([1, 1, 4])
        tf.raw_ops.CudnnRNN(input=ones, input_h=ones, input_c=ones, params=tf.ones([200]))
    edited(
        lambda saved_model: saved_model.meta_graphs[0].graph_def.node.extend(
            graph.as_graph_def().node
        )
    )(version)


FAULTS: dict[str, tuple[str, Break, str, tuple[str, ...]]] = {
    "wrong tag": (
        "half_plus_two",
        _tagged("train"),
        "Could not find meta graph def matching supplied tags: { serve }. To inspect available",
        ("tagged { serve }", "it has { train }", "--saved_model_tags=train,"),
    ),
    "no tag": (
        "half_plus_two",
        _tagged(),
        "Could not find meta graph def",
        ("it has {  }. To serve it, export the model with the tags { serve }",),
    ),
    "no graph": (
        "half_plus_two",
        edited(lambda saved_model: saved_model.ClearField("meta_graphs")),
        "Could not find meta graph def",
        ("holds no graph at all", "copy it anew"),
    ),
    "graph cut off": (
        "half_plus_two",
        cut("saved_model.pb", 500),
        "Read less bytes than requested",
        ("saved_model.pb, of ", "is cut off", "copy it anew"),
    ),
    "graph of another format": (
        "half_plus_two",
        lambda version: (version / "saved_model.pb").write_bytes(b"\xff not a protobuf"),
        "Read less bytes than requested",
        ("of 16 bytes, is not one that can be read",),
    ),
    "shard missing": (
        "half_plus_two",
        lambda version: (version / SHARD).unlink(),
        "variables/variables.data-00000-of-00001; No such file or directory",
        (f"lacks {SHARD}; in variables it has {INDEX}.", "copy it anew"),
    ),
    "shard cut off": (
        "half_plus_two",
        cut(SHARD, 6),
        "Read less bytes than requested",
        (f"{SHARD} of ", "may be cut off or damaged", "copy it anew"),
    ),
    "shard damaged": (
        "half_plus_two",
        lambda version: (version / SHARD).write_bytes(b"\xff" * (version / SHARD).stat().st_size),
        "Checksum does not match",
        (f"{SHARD} of ", "may be cut off or damaged", "copy it anew"),
    ),
    "index cut off": (
        "half_plus_two",
        cut(INDEX, 20),
        "not an sstable (bad magic number)",
        (f"{INDEX}, of ", "is cut off or damaged", "copy it anew"),
    ),
    "asset missing": (
        "v1_main_op",
        lambda version: (version / "assets/vocabulary.txt").unlink(),
        "assets/vocabulary.txt; No such file or directory",
        ("lacks assets/vocabulary.txt; in assets it has nothing",),
    ),
    "asset by another name": (
        "v1_main_op",
        _asset("words.txt"),
        "assets/words.txt; No such file or directory",
        ("lacks assets/words.txt; in assets it has assets/vocabulary.txt",),
    ),
    "unknown op": (
        "half_plus_two",
        _op("NobodyHasThisOp"),
        "Op type not registered 'NobodyHasThisOp' in binary running on",
        ("exported by TensorFlow 2.", "uses the op NobodyHasThisOp", "--custom_op_library"),
    ),
    "unknown op of a known package": (
        "half_plus_two",
        _op("SentencepieceOp"),
        "Op type not registered 'SentencepieceOp'",
        ("--custom_op_library=tensorflow_text",),
    ),
    "newer format": (
        "half_plus_two",
        versions(producer=99999, min_consumer=99999),
        "GraphDef min consumer version 99999 above current version",
        ("newer format", "graph version 99999 and up", "reads up to ", "Install the TensorFlow"),
    ),
    "older format": (
        "half_plus_two",
        versions(producer=-1),
        "GraphDef producer version -1 below min producer 0 supported by TensorFlow",
        ("format too old", "graph version -1", "export it again"),
    ),
    "pinned to a missing device": (
        "gpu_only",
        lambda _version: None,
        "Cannot assign a device for operation mul: {{node mul}} was explicitly assigned to",
        ("pins its op mul to /device:GPU:0", "only /device:CPU:0", "--allow_soft_placement"),
    ),
    "no kernel": (
        "half_plus_two",
        _needs_a_gpu_kernel,
        "No OpKernel was registered to support Op 'CudnnRNN'",
        ("uses the op CudnnRNN", "cannot run on what is here, CPU"),
    ),
    "nothing there": (
        "half_plus_two",
        _only(),
        "does not appear to contain a SavedModel bundle (should have a file called",
        ("holds no files", "tf.saved_model.save"),
    ),
    "Keras's own format": (
        "half_plus_two",
        _only("model.keras", "readme.txt"),
        "does not appear to contain a SavedModel bundle",
        ("no saved_model.pb, but model.keras", "export(FOLDER)"),
    ),
    "TensorFlow Lite's format": (
        "half_plus_two",
        _only("model.tflite"),
        "does not appear to contain a SavedModel bundle",
        ("no saved_model.pb, but model.tflite", "--prefer_tflite_model"),
    ),
    "something else": (
        "half_plus_two",
        _only("model.onnx"),
        "does not appear to contain a SavedModel bundle",
        ("no saved_model.pb, but model.onnx", "tf.saved_model.save"),
    ),
    "one folder too deep": (
        "half_plus_two",
        _only("mnist/saved_model.pb"),
        "does not appear to contain a SavedModel bundle",
        ("no saved_model.pb, but mnist/saved_model.pb", "right in its numbered folder"),
    ),
    "a file": (
        "half_plus_two",
        lambda version: (shutil.rmtree(version), version.write_bytes(b"")),
        "does not appear to contain a SavedModel bundle",
        ("is a file, where a version is a folder",),
    ),
}


@pytest.fixture(scope="module")
def runtimes() -> dict[bool, TensorFlowRuntime]:
    """One that explains, as ``salver serve`` does, and one that does not, over one library."""
    return {explains: TensorFlowRuntime(explains=explains) for explains in (True, False)}


@pytest.fixture
def broken(shelf: Shelf, tmp_path: Path) -> Callable[[str, Break], Path]:
    """A copy of a model of the shelf, broken."""

    def copy(model: str, breaks: Break) -> Path:
        version = Path(shutil.copytree(shelf.version(model), tmp_path / "1"))
        breaks(version)
        return version

    return copy


def failure(runtime: TensorFlowRuntime, version: Path) -> ServingError:
    with pytest.raises(ServingError) as raised:
        runtime.load(version)
    return raised.value


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_export_gives_one_line_that_says_what_to_do(runtimes, broken, fault: str):
    """It names the folder, what was found there and what helps; the code stays TensorFlow's."""
    model, breaks, theirs, told = FAULTS[fault]
    version = broken(model, breaks)
    plain, explained = failure(runtimes[False], version), failure(runtimes[True], version)

    assert theirs in plain.message
    assert explained.code == plain.code
    assert "\n" not in explained.message
    assert str(version) in explained.message
    for words in told:
        assert words in explained.message


@pytest.mark.parametrize("name", ["../../secret.txt", "/etc/passwd", "a/../../../b", ".."])
@pytest.mark.parametrize("explains", [True, False])
def test_an_asset_outside_of_the_folder_is_refused(runtimes, broken, name: str, explains: bool):
    """Before TensorFlow is asked, with either command."""
    error = failure(runtimes[explains], broken("v1_main_op", _asset(name)))

    assert isinstance(error, InvalidArgument)
    assert f"names the asset {name!r}, which lies outside of its folder assets" in error.message


def test_an_asset_outside_is_refused_where_tensorflow_2_lists_it(runtimes, broken):
    """The list of assets has moved since TensorFlow 1; both are read."""

    def name_outside(saved_model: Any) -> None:
        saved_model.meta_graphs[0].asset_file_def.add().filename = "../up.txt"

    error = failure(runtimes[False], broken("half_plus_two", edited(name_outside)))

    assert "names the asset '../up.txt'" in error.message


def test_an_asset_that_is_a_link_is_read(runtimes, broken, tmp_path: Path):
    """Stores and mounts are full of links; whoever made the folder made them."""
    words = tmp_path / "words.txt"
    words.write_text("zero\none\ntwo\n")

    def link(version: Path) -> None:
        (version / "assets/vocabulary.txt").unlink()
        (version / "assets/vocabulary.txt").symlink_to(words)

    servable = runtimes[True].load(broken("v1_main_op", link))

    assert sorted(servable.signatures) == ["serving_default"]
    servable.close()


def test_a_file_that_is_no_asset_and_not_here_is_named():
    """Its path was written into the graph where it was exported."""
    error = NotFound("/data/words.txt; No such file or directory\n\t [[{{node init}}]]")
    told = explain(error, Export("/m/1"), Asked((), "")).message

    assert told.startswith("/m/1 reads /data/words.txt, which is no part of it and not here")
    assert "tf.saved_model.Asset" in told


def test_a_folder_of_variables_that_is_empty_is_refused_with_either_command(runtimes, broken):
    """TensorFlow would load it and then fail every request."""

    def empty(version: Path) -> None:
        shutil.rmtree(version / "variables")
        (version / "variables").mkdir()

    version = broken("half_plus_two", empty)

    for runtime in runtimes.values():
        error = failure(runtime, version)
        assert isinstance(error, NotFound)
        assert f"{version} has a graph with variables and no {INDEX}" in error.message


def test_a_model_on_a_device_is_explained_as_any_other(runtimes, broken):
    """Its errors are TensorFlow's, or say the same."""
    version = broken("half_plus_two", _tagged("train"))
    with pytest.raises(NotFound, match=r"it has \{ train \}"):
        runtimes[True].load(version, "/device:CPU:0")


@pytest.mark.parametrize("name", ["saved_model.pb", SHARD])
def test_a_file_that_may_not_be_read_is_named(name: str):
    """TensorFlow says so with the path of a node in its graph behind it."""
    error = PermissionDenied(f"/m/1/{name}; Permission denied\n\t [[{{{{node RestoreV2}}}}]]")

    told = explain(error, Export("/m/1"), Asked((), "")).message
    assert told.startswith(f"/m/1/{name} cannot be read by the user that runs the server; let it")


def test_an_error_that_says_nothing_of_the_export_is_left_alone():
    """Not only its text: it is the same error."""
    error = InvalidArgument("You must feed a value for placeholder tensor 'x'")

    assert explain(error, Export("/m/1"), Asked(("serve",), "2.21.0")) is error


@given(text=st.text(max_size=200), names=st.lists(st.text(max_size=10), max_size=3))
def test_any_error_about_any_files_is_explained_or_left_alone(text: str, names: list[str]):
    """What is in a folder, and what TensorFlow says, may be anything."""
    export = Export("/m/1", dict.fromkeys(names, 1), tuple((name,) for name in names))
    starts = ("", "Could not find meta graph def matching supplied tags", "not an sstable ")

    for start in starts:
        assert isinstance(explain(NotFound(start + text), export, Asked((), "")), NotFound)


def test_long_names_in_an_export_are_cut(broken):
    """A tag of a megabyte would be an error of a megabyte."""
    export = look_at(broken("half_plus_two", _tagged("x" * 1_000_000)))

    assert [len(tag) for tags in export.tags for tag in tags] == [100]


def test_a_folder_that_is_not_there_is_looked_at_without_harm(tmp_path: Path):
    """It may vanish between the load and the look."""
    assert look_at(tmp_path / "gone") == Export(str(tmp_path / "gone"))
