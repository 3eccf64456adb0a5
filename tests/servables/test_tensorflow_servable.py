"""SavedModels served through the C API, beside TensorFlow's own answers to the same question."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from salver.dtypes import DType
from salver.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServingError,
    Unimplemented,
)
from salver.servables.libtensorflow import MOST_KEPT_BYTES, LibTensorFlow
from salver.servables.tensorflow import (
    LOADING_NICENESS,
    SavedModel,
    SavedModelLoader,
    SessionConfig,
    TensorFlowRuntime,
    give_way,
    op_library_paths,
)
from saved_models import DTYPES, Shelf, signature_answer, tensorflow, tensorflow_answer


@pytest.fixture(scope="module")
def runtime() -> TensorFlowRuntime:
    """One runtime for the module: its library is opened once."""
    return TensorFlowRuntime()


@pytest.fixture
def load(runtime: TensorFlowRuntime, shelf: Shelf):
    """Load a model of the shelf; it is closed after the test."""
    loaded: list[SavedModel] = []

    def load_one(name: str) -> SavedModel:
        loaded.append(runtime.load(shelf.version(name)))
        return loaded[-1]

    yield load_one
    for servable in loaded:
        servable.close()


def ask(
    servable: SavedModel, signature_name: str = "serving_default", **inputs: np.ndarray
) -> dict[str, np.ndarray]:
    signature = servable.signatures[signature_name]
    feeds = {signature.inputs[alias].name: value for alias, value in inputs.items()}
    fetches = [info.name for info in signature.outputs.values()]
    return dict(zip(signature.outputs, servable.run(feeds, fetches), strict=True))


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert sorted(ours) == sorted(theirs)
    for alias, array in ours.items():
        assert array.shape == theirs[alias].shape
        assert array.tolist() == theirs[alias].tolist(), alias


CASES = [
    ("half_plus_two", "serving_default", {"x": floats(1, 2, 5)}),
    ("matrix_half_plus_two", "serving_default", {"x": np.ones((2, 2, 2), np.float32)}),
    (
        "keras_softmax",
        "serving_default",
        {"keras_tensor": np.linspace(0, 1, 2 * 784, dtype=np.float32).reshape(2, 784)},
    ),
    (
        "keras_cnn",
        "serving_default",
        {"keras_tensor": np.linspace(0, 1, 784, dtype=np.float32).reshape(1, 28, 28, 1)},
    ),
    ("several_signatures", "serving_default", {"a": floats(1, 2), "b": floats(5, 7)}),
    ("several_signatures", "upper", {"text": np.array([b"abc", b"x" * 100], object)}),
    ("several_signatures", "encode", {"text": np.array([b"\xff\x00", b""], object)}),
    ("several_signatures", "read", {}),
    ("several_signatures", "scale", {"x": floats(1, 2), "factor": np.float32(3)}),
    ("several_signatures", "matmul", {"x": np.ones((3, 2), np.float32)}),
    ("v1_half_plus_two", "serving_default", {"x": np.array([[1.0], [4.0]], np.float32)}),
    ("v1_main_op", "serving_default", {"number": np.array([0, 1, 99], np.int64)}),
    ("v1_legacy_init_op", "serving_default", {"number": np.array([1, 0], np.int64)}),
]


@pytest.mark.parametrize(
    ("model", "signature", "inputs"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_answers_are_tensorflows_to_the_last_bit(load, shelf: Shelf, model, signature, inputs):
    """TF 1 and TF 2 exports, strings, states, tables, ref variables, tensors fed mid-graph."""
    servable = load(model)
    aliases = dict(zip(sorted(servable.signatures[signature].inputs), sorted(inputs), strict=True))
    inputs = {alias: inputs[given] for alias, given in aliases.items()}

    assert_same(
        ask(servable, signature, **inputs),
        signature_answer(shelf.version(model), inputs, signature),
    )


@pytest.mark.parametrize("label", DTYPES)
def test_every_dtype_goes_in_and_comes_out(load, label: str):
    """An identity of each type gives back what it was given, shape and bits."""
    dtype = DType[label.upper()]
    if dtype is DType.STRING:
        given = np.array([[b"", b"a" * 22], [b"b" * 23, b"\xff" * 70_000]], object)
    elif dtype.numpy.fields is not None:
        given = np.array([[(0,), (1,)], [(2,), (3,)]], dtype.numpy)
    else:
        given = np.array([[0, 1], [1, 1]], np.float32).astype(dtype.numpy)

    (answer,) = ask(load("all_dtypes"), label, x=given).values()

    assert answer.dtype == given.dtype
    assert answer.shape == given.shape
    assert answer.tolist() == given.tolist()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 1, 1, 1, 1, 1), (70_000,)])
def test_every_shape_goes_in_and_comes_out(load, shape: tuple[int, ...]):
    """Scalars, empty tensors, many dimensions, and one large enough to be lent, not copied."""
    given = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)

    (answer,) = ask(load("all_dtypes"), "float", x=given).values()

    assert answer.shape == given.shape
    assert answer.tobytes() == given.tobytes()


def test_a_lent_answer_outlives_the_run_and_the_servable(runtime, shelf: Shelf):
    """A large output is TensorFlow's own memory, kept as long as the array is."""
    servable = runtime.load(shelf.version("all_dtypes"))
    given = np.arange(100_000, dtype=np.float32)
    (answer,) = ask(servable, "float", x=given).values()
    ask(servable, "float", x=-given)
    servable.close()

    assert answer.tolist() == given.tolist()


def test_inputs_that_are_not_contiguous_are_understood(load):
    """A transposed or strided view feeds the values one sees, not the bytes beneath."""
    given = np.arange(60_000, dtype=np.float32).reshape(200, 300).T[::2]

    (answer,) = ask(load("all_dtypes"), "float", x=given).values()

    assert answer.tolist() == given.tolist()


def test_state_is_kept_between_runs(load):
    """A signature without inputs that counts, counts."""
    servable = load("several_signatures")
    counts = [ask(servable, "increment")["count"].item() for _ in range(3)]

    assert counts == [1.0, 2.0, 3.0]


def test_an_input_that_the_graph_keeps_is_not_written_over(load):
    """Input tensors are filled again for the next run, but never one that a variable holds."""
    servable = load("memory")
    answers = [ask(servable, x=floats(n, -n)) for n in (1.0, 2.0, 3.0)]

    assert [answer["last"].tolist() for answer in answers] == [[0, 0], [1, -1], [2, -2]]
    assert [answer["now"].tolist() for answer in answers] == [[1, -1], [2, -2], [3, -3]]


def test_runs_after_each_other_may_differ_in_shape_and_type_and_fail(load):
    """What is kept for the next run serves the next that is like it, and no other."""
    servable = load("all_dtypes")
    shapes: list[tuple[int, ...]] = [(2,), (2,), (0,), (3, 1), (1, 3), (3,), (2,), (5000,), (2,)]
    for number, shape in enumerate(shapes):
        given = np.full(shape, number, np.float32)
        assert_same(ask(servable, "float", x=given), {"y": given})
        with pytest.raises(InvalidArgument):
            ask(servable, "float", x=given.astype(np.float64))


def test_what_is_kept_for_later_runs_is_bounded_and_given_back(runtime, shelf: Shelf):
    """Large inputs stay in memory between runs only up to so much, in all models together."""
    library = runtime.open()
    servable = runtime.load(shelf.version("all_dtypes"))
    for count in (20_000_000, 2_000_000, 1_000_000):
        given = np.arange(count, dtype=np.float32)
        assert_same(ask(servable, "float", x=given), {"y": given})
    while_loaded = library.may_keep(MOST_KEPT_BYTES)
    servable.close()
    after = library.may_keep(MOST_KEPT_BYTES)
    library.keep_less(MOST_KEPT_BYTES)

    assert (while_loaded, after) == (False, True)


def test_a_size_in_bytes_is_not_taken_for_a_shape(load):
    """Two open dimensions: the same number of values may stand in several ways."""
    servable = load("memory")
    for shape in ((2, 3), (3, 2), (6, 1), (1, 6), (2, 3), (0, 4), (4, 0)):
        given = np.ones(shape, np.float32)
        assert_same(ask(servable, "squares", x=given), {"y": given})


def test_signatures_tell_types_shapes_methods_and_defaults(load):
    """What was exported can be read off the servable."""
    signature = load("several_signatures").signatures["scale"]

    assert signature.method_name == "tensorflow/serving/predict"
    assert signature.inputs["x"].dtype is DType.FLOAT
    assert signature.inputs["x"].shape == (-1,)
    assert signature.inputs["factor"].shape == ()
    assert signature.defaults["factor"].item() == 2.0


ESTIMATORS = Path(__file__).parent.parent / "models" / "estimator"


@pytest.mark.parametrize("export", sorted(p.name for p in ESTIMATORS.iterdir() if p.is_dir()))
def test_estimator_exports_of_tensorflow_2_15_are_served(runtime, export: str):
    """Every signature of an Estimator's export answers as TensorFlow does."""
    version = ESTIMATORS / export / "1"
    servable = runtime.load(version)
    asked = 0
    for name, signature in servable.signatures.items():
        inputs = {
            a: _estimator_input(info.dtype, info.shape) for a, info in signature.inputs.items()
        }
        assert_same(ask(servable, name, **inputs), signature_answer(version, inputs, name))
        asked += 1
    servable.close()

    assert asked > 0


def _estimator_input(dtype: DType, shape: tuple[int, ...] | None) -> np.ndarray:
    if dtype is not DType.STRING:
        return np.full([2 if n == -1 else n for n in shape or (2,)], 0.25, dtype.numpy)
    from tensorflow.core.example import example_pb2

    example = example_pb2.Example()
    example.features.feature["x"].float_list.value.extend([0.25, 0.75])
    return np.array([example.SerializeToString()] * 2, object)


REFUSED = [
    (
        "half_plus_two",
        "serving_default",
        {"x": np.array([1.0])},
        InvalidArgument,
        r"Expects arg\[0\] to be float but double is provided",
    ),
    (
        "several_signatures",
        "matmul",
        {"x": np.ones((1, 3), np.float32)},
        InvalidArgument,
        r"Matrix size-incompatible: In\[0\]: \[1,3\], In\[1\]: \[2,2\]",
    ),
]


@pytest.mark.parametrize(("model", "signature", "inputs", "error", "text"), REFUSED)
def test_what_the_graph_refuses_has_tensorflows_code_and_text(
    load, model, signature, inputs, error, text
):
    """No check of our own stands before the graph's."""
    with pytest.raises(error, match=text):
        ask(load(model), signature, **inputs)


def test_an_unfed_placeholder_is_named(load):
    """A feed that is missing is TensorFlow's to complain about."""
    servable = load("half_plus_two")
    fetch = servable.signatures["serving_default"].outputs["y"].name

    with pytest.raises(InvalidArgument, match="You must feed a value for placeholder tensor"):
        servable.run({}, [fetch])


def test_a_name_that_is_no_tensor_is_not_found(load):
    """A signature may name what its graph lacks; the request fails, nothing else."""
    servable = load("half_plus_two")

    with pytest.raises(NotFound, match="no_such:0"):
        servable.run({}, ["no_such:0"])
    with pytest.raises(NotFound, match="unable to find feed"):
        servable.run({"no_such:0": floats(1)}, ["no_such:0"])


def test_an_output_without_value_is_an_error(load):
    """The init op that TensorFlow 2 lists as a signature has nothing to fetch."""
    servable = load("half_plus_two")

    with pytest.raises(ServingError):
        ask(servable, "__saved_model_init_op")


def test_objects_that_are_no_strings_are_refused(load):
    """An object array may only hold bytes or text."""
    with pytest.raises(InvalidArgument, match="not float"):
        ask(load("several_signatures"), "upper", text=np.array([1.5], object))


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        ("unknown_op", NotFound, "Op type not registered 'NobodyHasThisOp'"),
        ("corrupt_graph", ServingError, "(?i)pars|read"),
        ("truncated_variables", ServingError, "."),
    ],
)
def test_a_broken_model_fails_to_load_and_leaves_the_runtime_whole(
    load, runtime, shelf: Shelf, model, error, text
):
    """TensorFlow says what is wrong; the next load works."""
    with pytest.raises(error, match=text):
        runtime.load(shelf.version(model))

    assert ask(load("half_plus_two"), x=floats(2))["y"].tolist() == [3.0]


def test_a_model_pinned_to_a_missing_gpu_fails_as_in_tensorflow_serving(runtime, shelf: Shelf):
    """Loading or the first run says that the device is not there."""
    with pytest.raises(InvalidArgument, match="Cannot assign a device for operation"):
        ask(runtime.load(shelf.version("gpu_only")), x=floats(1))


def test_an_unknown_tag_is_named(shelf: Shelf):
    """The text says which tags were asked for and how to see those that exist."""
    with pytest.raises(NotFound, match=r"supplied tags: \{ gpu serve \}"):
        TensorFlowRuntime(tags=["serve", "gpu"]).load(shelf.version("half_plus_two"))


def test_a_folder_without_a_saved_model_is_named(runtime, tmp_path: Path):
    """A half-copied version is told apart from a broken one."""
    with pytest.raises(NotFound, match=f"should have a file called(.|\n)*{tmp_path}"):
        runtime.load(tmp_path)


def test_a_session_bundle_is_refused_first(runtime, tmp_path: Path):
    """``export.meta`` decides, whatever lies beside it."""
    (tmp_path / "export.meta").touch()
    (tmp_path / "saved_model.pb").touch()

    with pytest.raises(Unimplemented, match="Session Bundle is deprecated and removed"):
        runtime.load(tmp_path)


def test_a_version_that_is_a_file_is_refused(runtime, tmp_path: Path):
    """The file system source counts files as versions; the loader does not."""
    (tmp_path / "7").touch()

    with pytest.raises(NotFound, match="SavedModel bundle"):
        runtime.load(tmp_path / "7")


def test_a_run_that_takes_too_long_is_ended(runtime, tmp_path: Path):
    """A graph with a loop runs where TensorFlow keeps the time, and says so."""
    _save_endless_loop(tmp_path / "1")
    servable = runtime.load(tmp_path / "1")

    signature = servable.signatures["serving_default"]
    feeds = {signature.inputs["x"].name: np.array(1, np.float32)}
    fetches = [signature.outputs["y"].name]

    assert not servable.predictable
    with pytest.raises(DeadlineExceeded, match="Timed out waiting for notification"):
        servable.run(feeds, fetches, timeout_s=0.05)


@pytest.mark.parametrize(
    ("dtype", "is_predictable"), [("int32", False), ("string", False), ("float32", True)]
)
def test_a_graph_that_makes_tensors_as_large_as_a_value_says_is_not_predictable(
    runtime, tmp_path: Path, dtype: str, is_predictable: bool
):
    """A small request may ask it for any amount of work, unless its inputs cannot be sizes."""
    tf = tensorflow()
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([], tf.as_dtype(dtype))])
    def fill(n):
        size = n if dtype == "int32" else tf.constant(3)
        return {"y": tf.fill([size], 1.0), "n": tf.identity(n)}

    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": fill})
    servable = runtime.load(tmp_path / "1")

    assert servable.predictable is is_predictable
    servable.close()


def test_a_folder_that_cannot_be_read_is_said_to_be_so(runtime, tmp_path: Path, monkeypatch):
    """The text names the folder and the user, whose rights they are."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)  # root, who runs some tests, may read everything

    with pytest.raises(PermissionDenied, match=f"{tmp_path} cannot be read by user"):
        runtime.load(tmp_path)


def _save_endless_loop(version: Path) -> None:
    tf = tensorflow()
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
    def long_loop(x):
        # Long enough for any deadline of this test, short enough to end by itself.
        return {"y": tf.while_loop(lambda i, _: i < 3e6, lambda i, v: (i + 1, v), [0.0, x])[1]}

    tf.saved_model.save(module, str(version), signatures={"serving_default": long_loop})


def test_sets_of_outputs_are_bounded_and_answered_from_a_larger_set(load):
    """A client that asks for every subset costs no more memory than the bound."""
    servable = load("all_dtypes")
    names = [s.outputs["y"].name for s in servable.signatures.values() if "y" in s.outputs]
    feeds = {servable.signatures["float"].inputs["x"].name: floats(1)}
    y = servable.signatures["float"].outputs["y"].name
    servable.run(feeds, [y])
    for i in range(300):
        with pytest.raises(ServingError):  # their placeholders are not fed
            servable.run({}, [names[i % len(names)]] * (i // len(names) + 1))

    assert servable.run(feeds, [y, y][:1])[0].tolist() == [1.0]
    with pytest.raises(ResourceExhausted, match="different sets of inputs and outputs"):
        servable.run({}, names)


def test_many_threads_may_run_at_once(load):
    """Concurrent runs do not see each other's tensors."""
    servable = load("half_plus_two")
    wrong: list[float] = []

    def run(start: int) -> None:
        asked = range(start, start + 300)
        wrong.extend(i for i in asked if ask(servable, x=floats(i))["y"].item() != i * 0.5 + 2)

    threads = [threading.Thread(target=run, args=(n * 1000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_session_config_is_tensorflows_message():
    """The few fields we set have TensorFlow's numbers."""
    tensorflow()
    from tensorflow.core.protobuf import config_pb2

    config = config_pb2.ConfigProto.FromString(SessionConfig(3, 200).serialized())

    assert config.intra_op_parallelism_threads == 3
    assert config.inter_op_parallelism_threads == 200


def test_the_loader_loads_estimates_and_unloads(runtime, shelf: Shelf):
    """The manager's contract, over a real model."""
    loader = SavedModelLoader(runtime, shelf.version("half_plus_two"))
    files = [p for p in shelf.version("half_plus_two").rglob("*") if p.is_file()]
    loader.load()

    assert loader.estimate_resources() == int(1.2 * sum(p.stat().st_size for p in files))
    assert ask(loader.servable(), x=floats(2))["y"].tolist() == [3.0]
    loader.unload()
    with pytest.raises(NotFound):
        loader.servable()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_a_thread_that_loads_gives_way_and_no_other_does():
    """It runs behind those that answer; the main thread, and others it starts, stay as they are."""

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def load_in_thread() -> int:
        give_way()
        give_way()
        return niceness()

    give_way()
    here = niceness()
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(load_in_thread).result()
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(niceness).result()

    assert here == elsewhere
    assert there == max(here, LOADING_NICENESS)


def test_a_custom_op_library_may_be_a_file_or_a_package(tmp_path: Path):
    """Packages are searched for libraries that link to TensorFlow and are no Python modules."""
    package = tmp_path / "some_ops"
    (package / "ops").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "ops" / "_ops.so").write_bytes(b"ELF libtensorflow_framework.so.2")
    (package / "ops" / "module.so").write_bytes(b"ELF libtensorflow_framework.so.2 PyInit_module")
    (package / "other.so").write_bytes(b"ELF")
    sys.path.insert(0, str(tmp_path))
    try:
        found = op_library_paths("some_ops")
    finally:
        sys.path.remove(str(tmp_path))

    assert found == [package / "ops" / "_ops.so"]
    assert op_library_paths(str(package / "other.so")) == [package / "other.so"]


@pytest.mark.parametrize("name", ["/no/such/file.so", "no_such_package", "json"])
def test_a_custom_op_library_that_is_not_there_is_named(name: str):
    """The message says what was asked for."""
    with pytest.raises(ServingError, match=name):
        op_library_paths(name)


def test_a_file_that_is_no_library_is_refused_by_the_linker(tmp_path: Path):
    """TensorFlow passes on what the dynamic linker says."""
    (tmp_path / "ops.so").write_text("not a library")

    with pytest.raises(ServingError, match=r"ops\.so"):
        TensorFlowRuntime(custom_op_libraries=[str(tmp_path / "ops.so")]).open()


def test_a_missing_tensorflow_is_explained(tmp_path: Path):
    """Without TensorFlow the error says how to get it."""
    with pytest.raises(FailedPrecondition, match="cannot be opened"):
        LibTensorFlow(tmp_path)


def test_the_server_side_never_imports_tensorflows_package(shelf: Shelf):
    """A process that serves a model has no module named tensorflow."""
    code = (
        "import sys; from pathlib import Path; import numpy as np;"
        "from salver.servables.tensorflow import TensorFlowRuntime;"
        "m = TensorFlowRuntime().load(Path(sys.argv[1]));"
        "s = m.signatures['serving_default'];"
        "y, = m.run({s.inputs['x'].name: np.array([2], np.float32)}, [s.outputs['y'].name]);"
        "assert y.tolist() == [3.0];"
        "print([name for name in sys.modules if name.split('.')[0] in ('tensorflow', 'keras')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(shelf.version("half_plus_two"))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )

    assert done.stdout.strip() == "[]"


def test_tensorflows_own_answer_is_an_independent_one(shelf: Shelf):
    """The oracle of this file goes through TensorFlow's Python package, not through Salver."""
    version = shelf.version("half_plus_two")
    (answer,) = tensorflow_answer(
        version, {"serving_default_x:0": floats(2)}, ["StatefulPartitionedCall:0"]
    )

    assert answer.tolist() == [3.0]


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_text") is None,
    reason="tensorflow-text has wheels for Linux on x86-64 only",
)
def test_a_model_with_custom_ops_is_served_once_their_package_is_named(tmp_path: Path):
    """Without it the op is unknown; with ``tensorflow_text`` named, the answer is right.

    In processes of their own: a custom op, once registered, stays.
    """
    make = (
        "import sys, tensorflow as tf, tensorflow_text as text\n"
        "module = tf.Module(); module.tokenizer = text.WhitespaceTokenizer()\n"
        "@tf.function(input_signature=[tf.TensorSpec([None], tf.string)])\n"
        "def split(line):\n"
        "    return {'words': module.tokenizer.tokenize(line).to_tensor()}\n"
        "tf.saved_model.save(module, sys.argv[1], signatures=split)\n"
    )
    serve = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from salver.errors import NotFound\n"
        "from salver.servables.tensorflow import TensorFlowRuntime\n"
        "try: TensorFlowRuntime().load(Path(sys.argv[1]))\n"
        "except NotFound as error: assert 'TFText' in error.message\n"
        "runtime = TensorFlowRuntime(custom_op_libraries=['tensorflow_text'])\n"
        "model = runtime.load(Path(sys.argv[1]))\n"
        "signature = model.signatures['serving_default']\n"
        "feeds = {signature.inputs['line'].name: np.array([b'hello big world'], object)}\n"
        "import hashlib, ssl  # which TensorFlow's own BoringSSL must not get in the way of\n"
        "print(model.run(feeds, [signature.outputs['words'].name])[0].tolist())\n"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    version = str(tmp_path / "1")
    subprocess.run([sys.executable, "-c", make, version], check=True, env=environment)
    served = subprocess.run(
        [sys.executable, "-c", serve, version],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert served.stdout.strip() == "[[b'hello', b'big', b'world']]"
