"""Legacy SessionBundles: what TensorFlow's exporter wrote before there were SavedModels.

``export.meta`` is a MetaGraphDef whose collections say what to serve and how to get it ready;
``export-?????-of-?????`` are the variables and ``assets/`` the files it reads.  A bundle becomes a
session like a SavedModel's, with signatures like a SavedModel's, so nothing above can tell.

The graph may be large.  It is read once and handed to TensorFlow where it lies; only the small
parts beside it are parsed, and each has a bound.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from ctypes import c_int64
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from salver.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServingError,
    Unimplemented,
    error_for,
)
from salver.protos import saved_model_pb2, session_bundle_pb2
from salver.protos.session_bundle_pb2 import AssetFile, CollectionDef, SaverDef, Signatures
from salver.saved_model_files import (
    ANY_VALUES,
    BUNDLE,
    BUNDLE_VARIABLES,
    GRAPHS,
    SAVER_DEF,
    collections,
    fields,
    lies_outside,
    missing_files,
    nested,
    read_needs,
)
from salver.servables.libtensorflow import LibTensorFlow, Output
from salver.servables.placed_session import SOFT_PLACEMENT, check_device
from salver.servables.tensorflow_graph import Graph, GraphSession, devices_of, run_op
from salver.servables.tensorflow_session import Session
from salver.signature import (
    CLASSIFY_METHOD,
    DEFAULT_SERVING_SIGNATURE,
    PREDICT_METHOD,
    REGRESS_METHOD,
)

PREDICT_SIGNATURE: Final = "predict"
"""What the named signatures ``inputs`` and ``outputs`` become beside a default signature."""

MAX_GRAPH_BYTES: Final = (1 << 31) - 1
"""Protobuf's own limit."""

MAX_COLLECTION_BYTES: Final = 16 << 20
"""Of the signatures, and of the list of assets."""

_INPUTS: Final = "inputs"
_OUTPUTS: Final = "outputs"
_CLASSES: Final = "classes"
_SCORES: Final = "scores"

# The collections of TensorFlow 1's exporter, and the types of what is in them.
_SERVING_GRAPH: Final = "serving_graph"
_SERVING_INIT_OP: Final = "serving_init_op"
_SERVING_SIGNATURES: Final = "serving_signatures"
_SERVING_ASSETS: Final = "serving_assets"
_GRAPH_TYPE: Final = "tensorflow.GraphDef"
_SIGNATURES_TYPE: Final = "tensorflow.serving.Signatures"
_ASSET_TYPE: Final = "tensorflow.serving.AssetFile"

_GRAPH_DEF: Final = 2
_ANY_VALUE: Final = 2
_REF: Final = 100
_NAMED_AT_MOST: Final = 3

_Message = TypeVar("_Message", bound=Message)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What an ``export.meta`` says; the graph is named by where it starts and ends in the file."""

    graph: tuple[int, int]
    saver: SaverDef
    init_op: str
    assets: tuple[AssetFile, ...]
    signatures: Signatures


def is_session_bundle(folder: Path) -> bool:
    """Whether what a version holds is a SessionBundle; a SavedModel beside it comes first."""
    names = (folder / name for name in GRAPHS)
    return (folder / BUNDLE).exists() and not any(path.exists() for path in names)


def load_session_bundle(
    library: LibTensorFlow, folder: Path, config: bytes = b"", device: str = ""
) -> Session:
    """Load the SessionBundle in ``folder``: restore its variables, run its init op.

    ``config`` is a serialized ``tensorflow.ConfigProto``.  Ops that the bundle has not pinned
    itself run on ``device``; without one, TensorFlow chooses.

    Raises:
        ServingError: what is wrong with it and what helps, or what TensorFlow says.
    """
    try:
        return _load(library, folder, config, device)
    except Unimplemented:
        raise  # in TensorFlow Serving's words
    except ServingError as error:
        text = " ".join(error.message.split())  # TensorFlow's own may be many lines
        raise error_for(error.code, f"{folder} is a SessionBundle; {text}") from error


def _load(library: LibTensorFlow, folder: Path, config: bytes, device: str) -> Session:
    content = _read(folder / BUNDLE)
    with memoryview(content) as view:
        bundle = read_bundle(view)
    definitions = signature_defs(bundle.signatures)
    _check_files(folder, bundle)
    graph = Graph(library)
    try:
        _import(graph, content, bundle, device)
        content += _described(library, graph, definitions)  # protobuf's way to add fields
        address = graph.new_session(config + SOFT_PLACEMENT if device else config)
        session = GraphSession(library, address, graph.address, memoryview(content))
    except BaseException:
        graph.close()
        raise
    try:
        if device:
            check_device(device, devices_of(library, session.address))
        _restore(session, graph, folder, bundle)
    except BaseException:
        session.close()
        raise
    return session


def read_bundle(content: memoryview) -> Bundle:
    """Read an ``export.meta``.

    Raises:
        DataLoss: it is none, or cut off.
        FailedPrecondition: it lacks a graph or signatures, or has several.
        InvalidArgument: a part of it has no reason to be that large.
    """
    try:
        return _read_bundle(content)
    except (ValueError, DecodeError) as error:
        raise DataLoss(
            f"its {BUNDLE} cannot be read ({error}); copy it anew, or export the model again"
        ) from error


def _read_bundle(content: memoryview) -> Bundle:
    graph: tuple[int, int] | None = None
    saver = SaverDef()
    for number, start, end in fields(content, 0, len(content)):
        if number == _GRAPH_DEF:
            graph = (start, end)
        elif number == SAVER_DEF:
            saver.MergeFromString(_part(content, start, end))
    found = {name: (start, end) for name, start, end in collections(content)}
    if _SERVING_GRAPH in found:
        graph = _serving_graph(content, *found[_SERVING_GRAPH])
    if graph is None:
        raise FailedPrecondition(f"its {BUNDLE} holds no graph; export the model again")
    read: dict[str, CollectionDef] = {
        name: CollectionDef.FromString(_part(content, *found[name]))
        for name in (_SERVING_INIT_OP, _SERVING_SIGNATURES, _SERVING_ASSETS)
        if name in found
    }
    return Bundle(
        graph,
        saver,
        _init_op(read),
        tuple(_held(read, _SERVING_ASSETS, AssetFile, _ASSET_TYPE)),
        _signatures(read),
    )


def signature_defs(signatures: Signatures) -> dict[str, saved_model_pb2.SignatureDef]:
    """What the signatures are as SignatureDefs, in which tensors have a name and nothing else yet.

    The default one, or else the generic ones named ``inputs`` and ``outputs``, are
    ``serving_default``, as TensorFlow Serving had it.  It dropped all others; here those beside a
    default are called ``predict``, and named classifications and regressions keep their names.

    Raises:
        Unimplemented: the default signature is neither a classification nor a regression.
        FailedPrecondition: there is nothing that can be served.
    """
    named = signatures.named_signatures
    definitions = {
        name: definition
        for name in sorted(named)
        if (definition := _signature_def(named[name])) is not None
    }
    predict = _predict_signature_def(named)
    if signatures.HasField("default_signature"):
        default = _signature_def(signatures.default_signature)
        if default is None:
            raise Unimplemented(
                "Only classification and regression default signatures are supported for up "
                "conversion."
            )
        if predict is not None:
            definitions[PREDICT_SIGNATURE] = predict
        definitions[DEFAULT_SERVING_SIGNATURE] = default
    elif predict is not None:
        definitions[DEFAULT_SERVING_SIGNATURE] = predict
    if not definitions:
        names = ", ".join(map(repr, sorted(named)[:_NAMED_AT_MOST])) or "none"
        raise FailedPrecondition(
            "it has no signature that can be served (no default signature; named ones: "
            f"{names}). Export it with a default classification or regression signature, or with "
            f"generic signatures named {_INPUTS!r} and {_OUTPUTS!r}"
        )
    return definitions


def _signature_def(
    signature: session_bundle_pb2.Signature,
) -> saved_model_pb2.SignatureDef | None:
    """A classification or regression; None for a generic one, which has no direction."""
    kind = signature.WhichOneof("type")
    if kind == "regression_signature":
        regression = signature.regression_signature
        inputs, outputs = {_INPUTS: regression.input}, {_OUTPUTS: regression.output}
        return _definition(REGRESS_METHOD, inputs, outputs)
    if kind == "classification_signature":
        classification = signature.classification_signature
        outputs = {_CLASSES: classification.classes, _SCORES: classification.scores}
        return _definition(CLASSIFY_METHOD, {_INPUTS: classification.input}, outputs)
    return None


def _predict_signature_def(
    named: Mapping[str, session_bundle_pb2.Signature],
) -> saved_model_pb2.SignatureDef | None:
    """The generic signatures ``inputs`` and ``outputs``, which belong together."""
    if not {_INPUTS, _OUTPUTS} <= named.keys():
        return None
    pair = named[_INPUTS], named[_OUTPUTS]
    if any(signature.WhichOneof("type") != "generic_signature" for signature in pair):
        return None
    inputs, outputs = (signature.generic_signature.map for signature in pair)
    return _definition(PREDICT_METHOD, inputs, outputs)


def _definition(
    method_name: str,
    inputs: Mapping[str, session_bundle_pb2.TensorBinding],
    outputs: Mapping[str, session_bundle_pb2.TensorBinding],
) -> saved_model_pb2.SignatureDef:
    definition = saved_model_pb2.SignatureDef(method_name=method_name)
    for bindings, infos in ((inputs, definition.inputs), (outputs, definition.outputs)):
        for alias in sorted(bindings):
            if bindings[alias].tensor_name:  # a classification may leave out classes or scores
                infos[alias].name = bindings[alias].tensor_name
    return definition


# --- What is read ---------------------------------------------------------------------------------


def _read(path: Path) -> bytearray:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_GRAPH_BYTES:
                raise InvalidArgument(
                    f"its {BUNDLE} has {size} bytes, more than the {MAX_GRAPH_BYTES} of any "
                    "protobuf; keep weights in variables, not in the graph"
                )
            content = bytearray(size)
            del content[file.readinto(content) :]
            return content
    except PermissionError as error:
        raise PermissionDenied(
            f"its {BUNDLE} cannot be read by user {os.geteuid()}: {error.strerror}"
        ) from error
    except OSError as error:
        raise DataLoss(f"its {BUNDLE} cannot be read: {error.strerror}; copy it anew") from error


def _part(content: memoryview, start: int, end: int) -> bytes:
    if end - start > MAX_COLLECTION_BYTES:
        raise InvalidArgument(
            f"a part of its {BUNDLE} has {end - start} bytes, more than {MAX_COLLECTION_BYTES}; "
            "export the model again"
        )
    return bytes(content[start:end])


def _serving_graph(content: memoryview, start: int, end: int) -> tuple[int, int]:
    """Where the only graph of a collection lies; it is not copied, as the others are."""
    values = list(nested(content, start, end, ANY_VALUES))
    if len(values) != 1:
        raise _several(_SERVING_GRAPH, "graph", len(values))
    found = {number: (a, b) for number, a, b in fields(content, *values[0])}
    type_url = _part(content, *found.get(1, (0, 0))).decode()
    _check_type(_SERVING_GRAPH, type_url, _GRAPH_TYPE)
    return found.get(_ANY_VALUE, (0, 0))


def _init_op(read: Mapping[str, CollectionDef]) -> str:
    if _SERVING_INIT_OP not in read:
        return ""
    names = read[_SERVING_INIT_OP].node_list.value
    if len(names) != 1:
        raise _several(_SERVING_INIT_OP, "op", len(names))
    return names[0]


def _signatures(read: Mapping[str, CollectionDef]) -> Signatures:
    found = _held(read, _SERVING_SIGNATURES, Signatures, _SIGNATURES_TYPE)
    if len(found) != 1:
        raise _several(_SERVING_SIGNATURES, "set of signatures", len(found))
    return found[0]


def _held(
    read: Mapping[str, CollectionDef], name: str, message: Callable[[], _Message], kind: str
) -> list[_Message]:
    """The messages of a collection, all of one kind."""
    held: list[_Message] = []
    for value in read[name].any_list.value if name in read else ():
        _check_type(name, value.type_url, kind)
        held.append(message())
        held[-1].ParseFromString(value.value)
    return held


def _check_type(collection: str, type_url: str, wanted: str) -> None:
    if type_url.rpartition("/")[2] != wanted:
        raise FailedPrecondition(
            f"its collection {collection} holds a {type_url or 'nameless message'}, not a {wanted};"
            " export the model again"
        )


def _several(collection: str, what: str, count: int) -> FailedPrecondition:
    return FailedPrecondition(
        f"its collection {collection} holds {count or 'no'} {what}{'s' if count else ''} and has "
        "to hold one; export the model again, with TensorFlow 1's exporter or after its pattern"
    )


# --- The files beside it --------------------------------------------------------------------------


def _check_files(folder: Path, bundle: Bundle) -> None:
    for asset in bundle.assets:
        if lies_outside(asset.filename):
            raise InvalidArgument(
                f"its asset {asset.filename!r} lies outside of its folder assets; export it anew "
                "with the bare names of its files"
            )
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    missing = missing_files(paths, read_needs(folder / BUNDLE))
    if missing:
        more = len(missing) - _NAMED_AT_MOST
        names = ", ".join(missing[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
        raise NotFound(
            f"it lacks {names}; if it is still being copied it will be tried again, otherwise copy "
            "it anew"
        )


def _variables(folder: Path) -> bytes:
    """What the restore op takes for a name: that of one file, or a pattern of names."""
    single = folder / BUNDLE_VARIABLES
    if single.exists() or single.with_suffix(".index").exists():
        return bytes(single)
    return bytes(folder / f"{BUNDLE_VARIABLES}-?????-of-?????")


# --- The graph and its session --------------------------------------------------------------------


def _import(graph: Graph, content: bytearray, bundle: Bundle, device: str) -> None:
    try:
        graph.add(content, *bundle.graph, default_device=device)
    except ServingError as error:
        raise error_for(
            error.code,
            "its graph cannot be imported (an op that TensorFlow does not have needs its library "
            f"in --custom_op_library): {error.message}",
        ) from error


def _described(
    library: LibTensorFlow, graph: Graph, definitions: Mapping[str, saved_model_pb2.SignatureDef]
) -> bytes:
    """Fill in types and shapes from the graph; the signatures as fields of a MetaGraphDef.

    Raises:
        NotFound: the graph lacks a tensor.
    """
    for name, definition in definitions.items():
        for infos in (definition.inputs, definition.outputs):
            for info in infos.values():
                _describe(library, graph, info, f"signature {name!r}")
    serialized = {name: found.SerializeToString() for name, found in definitions.items()}
    return saved_model_pb2.MetaGraphDef(signature_def=serialized).SerializeToString()


def _describe(
    library: LibTensorFlow, graph: Graph, info: saved_model_pb2.TensorInfo, owner: str
) -> None:
    output = _output(graph, info.name, owner)
    dtype: int = library["TF_OperationOutputType"](output)
    info.dtype = dtype - _REF if dtype > _REF else dtype  # type: ignore[assignment] # an enum
    shape = _shape(library, graph, output)
    info.tensor_shape.unknown_rank = shape is None
    for size in shape or ():
        info.tensor_shape.dim.add(size=size)


def _shape(library: LibTensorFlow, graph: Graph, output: Output) -> tuple[int, ...] | None:
    status = library.take_status()
    rank = library["TF_GraphGetTensorNumDims"](graph.address, output, status)
    library.check(status)
    if rank < 0:
        return None
    dims = (c_int64 * rank)()
    status = library.take_status()
    address = ctypes.addressof(dims)
    library["TF_GraphGetTensorShape"](graph.address, output, address, rank, status)
    library.check(status)
    return tuple(dims)


def _output(graph: Graph, name: str, owner: str) -> Output:
    try:
        return graph.output(name)
    except NotFound as error:
        raise _lacks(name, owner) from error


def _operation(graph: Graph, name: str, owner: str) -> int:
    try:
        return graph.operation(name)
    except NotFound as error:
        raise _lacks(name, owner) from error


def _lacks(name: str, owner: str) -> NotFound:
    return NotFound(f"its {owner} names {name!r}, which its graph lacks; export the model again")


def _restore(session: Session, graph: Graph, folder: Path, bundle: Bundle) -> None:
    """Run what fills the variables, then what fills the tables; both may read assets."""
    assets = [
        (
            _output(graph, asset.tensor_binding.tensor_name, f"asset {asset.filename!r}"),
            bytes(folder / "assets" / asset.filename),
        )
        for asset in bundle.assets
    ]
    if bundle.saver.restore_op_name:
        filename = _output(graph, bundle.saver.filename_tensor_name, "saver")
        restore = _operation(graph, bundle.saver.restore_op_name, "saver")
        try:
            run_op(session, restore, [(filename, _variables(folder)), *assets])
        except ServingError as error:
            raise error_for(
                error.code,
                "its variables cannot be restored; copy it anew, or export the model again: "
                f"{error.message}",
            ) from error
    if bundle.init_op:
        init = _operation(graph, bundle.init_op, f"collection {_SERVING_INIT_OP}")
        run_op(session, init, assets)
