"""Why a SavedModel cannot be loaded, in one line: what was asked, what was found, what helps.

TensorFlow's errors say which of its own functions failed.  ``explain`` knows the ones that a bad
export brings about and says the same of the files, with what ``look_at`` found among them; an error
it does not know it leaves alone.  The code stays TensorFlow's.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

from salver.errors import ServingError, error_for
from salver.saved_model_files import GRAPH, INDEX, fields, missing_files, nested

MAX_FILES: Final = 1000
"""Of a version, that are looked at; a SavedModel has a handful."""

MAX_TEXT_BYTES: Final = 100
"""Of a tag or a version; the export may be anybody's."""

_NAMED_AT_MOST: Final = 5

# Field numbers of SavedModel, MetaGraphDef and MetaInfoDef.
_META_GRAPHS: Final = 2
_META_INFO: Final = 1
_TAG: Final = 4
_TENSORFLOW_VERSION: Final = 5

_PACKAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Addons>": "tensorflow_addons",
        "IO>": "tensorflow_io",
        "SimpleML": "tensorflow_decision_forests",
        "Sentencepiece": "tensorflow_text",
        "Wordpiece": "tensorflow_text",
        "FastWordpiece": "tensorflow_text",
        "FastBert": "tensorflow_text",
        "WhitespaceTokenize": "tensorflow_text",
        "NormalizeUTF8": "tensorflow_text",
        "CaseFoldUTF8": "tensorflow_text",
        "RegexSplit": "tensorflow_text",
    }
)
"""What the names of ops begin with that packages bring."""


@dataclass(frozen=True, slots=True)
class Export:
    """What lies in the folder of a version."""

    path: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    """The size of each file in bytes, by its name relative to the folder."""
    tags: tuple[tuple[str, ...], ...] = ()
    """The tags of each graph."""
    writer: str = ""
    """The version of TensorFlow that exported it."""
    is_cut_off: bool = False
    """Whether the file of the graph ends in the middle of something."""
    is_file: bool = False
    """Whether there is a file where the folder should be."""

    def names(self, folder: str = "") -> list[str]:
        """The names of the files, or of those in a folder."""
        return [name for name in sorted(self.sizes) if name.startswith(folder)]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was to be loaded, and by whom."""

    tags: tuple[str, ...]
    tensorflow: str
    """The version that is installed; empty where it was not asked."""


def explain(error: ServingError, export: Export, asked: Asked) -> ServingError:
    """``error`` in one line about the export, or as it is if that says nothing of it."""
    for pattern, told in _FAULTS:
        match = re.search(pattern, error.message, re.DOTALL)
        if match is not None:
            return error_for(error.code, told(match, export, asked))
    return error


def look_at(folder: Path) -> Export:
    """What lies in ``folder``, as far as it can be read."""
    sizes: dict[str, int] = {}
    try:
        for path in islice(folder.rglob("*"), MAX_FILES):
            if path.is_file():
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    except OSError:  # what goes away meanwhile is not there
        pass
    tags, writer, is_cut_off = _graphs(folder / GRAPH)
    return Export(str(folder), sizes, tags, writer, is_cut_off, is_file=folder.is_file())


def _graphs(graph: Path) -> tuple[tuple[tuple[str, ...], ...], str, bool]:
    """The tags of the graphs, who wrote the first, and whether the file is cut off."""
    tags: list[tuple[str, ...]] = []
    writer = ""
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for start, end in nested(data, 0, len(data), (_META_GRAPHS,)):
                infos = list(nested(data, start, end, (_META_INFO,)))
                texts = [
                    (number, data[a : min(b, a + MAX_TEXT_BYTES)].decode(errors="replace"))
                    for info in infos
                    for number, a, b in fields(data, *info)
                    if number in (_TAG, _TENSORFLOW_VERSION)
                ]
                tags.append(tuple(text for number, text in texts if number == _TAG))
                versions = [text for number, text in texts if number == _TENSORFLOW_VERSION]
                writer = writer or next(iter(versions), "")
    except ValueError as error:  # an empty file is one, too
        return tuple(tags), writer, "cut off" in str(error)
    except OSError:
        pass
    return tuple(tags), writer, False


# --- The faults -----------------------------------------------------------------------------------


def _no_saved_model(_match: re.Match[str], export: Export, _asked: Asked) -> str:
    if export.is_file:
        return f"{export.path} is a file, where a version is a folder; {_EXPORT_THERE}"
    if not export.sizes:
        return (
            f"{export.path} holds no files; if it is still being copied it can be tried again, "
            f"otherwise {_EXPORT_THERE}"
        )
    deeper = [name for name in export.sizes if name.endswith(f"/{GRAPH}")]
    if deeper:
        return (
            f"{export.path} has no {GRAPH}, but {deeper[0]}; the files of a version have to lie "
            "right in its numbered folder"
        )
    if "model.tflite" in export.sizes:
        return (
            f"{export.path} has no {GRAPH}, but model.tflite, which is TensorFlow Lite's; "
            "--prefer_tflite_model serves it"
        )
    keras = [name for name in sorted(export.sizes) if name.endswith((".keras", ".h5", ".hdf5"))]
    if keras:
        return (
            f"{export.path} has no {GRAPH}, but {keras[0]}, which is Keras's own format; "
            f"keras.models.load_model('{keras[0]}').export(FOLDER) makes a SavedModel of it"
        )
    return f"{export.path} has no {GRAPH}, but {_first(export.names())}; {_EXPORT_THERE}"


_EXPORT_THERE: Final = "export a model there with tf.saved_model.save or a Keras model's export"


def _wrong_tags(_match: re.Match[str], export: Export, asked: Asked) -> str:
    wanted = _tag_set(asked.tags)
    if not export.tags:
        size = export.sizes.get(GRAPH, 0)
        return (
            f"{export.path} has no graph tagged {wanted}: its {GRAPH}, of {size} bytes, holds no "
            "graph at all; copy it anew, or export the model again"
        )
    found = " and ".join(map(_tag_set, export.tags))
    tags = next(filter(None, export.tags), ())
    ask = f"ask for that with --saved_model_tags={','.join(tags)}, or " if tags else ""
    return (
        f"{export.path} has no graph tagged {wanted}; it has {found}. To serve it, {ask}export the "
        f"model with the tags {wanted}"
    )


def _tag_set(tags: Sequence[str]) -> str:
    return f"{{ {' '.join(sorted(tags))} }}"


def _graph_unreadable(_match: re.Match[str], export: Export, _asked: Asked) -> str:
    how = "is cut off" if export.is_cut_off else "is not one that can be read"
    return (
        f"{export.path}/{GRAPH}, of {export.sizes.get(GRAPH, 0)} bytes, {how}; copy it anew, or "
        "export the model again"
    )


def _file_missing(match: re.Match[str], export: Export, _asked: Asked) -> str:
    name = match[1].removeprefix(f"{export.path}/")
    if name == match[1]:
        return (
            f"{export.path} reads {name}, which is no part of it and not here; export it with the "
            "file as an asset (tf.saved_model.Asset), or put the file there"
        )
    missing = missing_files(export.sizes)
    lacking = missing if name in missing else [name]
    folder = name.rpartition("/")[0]
    where = f"in {folder} it has" if folder else "it has"
    found = _first(export.names(f"{folder}/" if folder else "")) or "nothing"
    return (
        f"{export.path} lacks {_first(lacking)}; {where} {found}. If it is still being copied it "
        "can be tried again, otherwise copy it anew"
    )


def _unreadable(match: re.Match[str], export: Export, _asked: Asked) -> str:
    return (
        f"{match[1]} cannot be read by the user that runs the server; let it, as in "
        f"chmod -R a+rX {export.path}"
    )


def _index_damaged(_match: re.Match[str], export: Export, _asked: Asked) -> str:
    return (
        f"{export.path}/{INDEX}, of {export.sizes.get(INDEX, 0)} bytes, is cut off or damaged; "
        "copy it anew, or export the model again"
    )


def _variables_damaged(_match: re.Match[str], export: Export, _asked: Asked) -> str:
    data = [name for name in sorted(export.sizes) if name.startswith("variables/variables.data-")]
    shown = ", ".join(f"{name} of {export.sizes[name]} bytes" for name in data[:_NAMED_AT_MOST])
    return (
        f"the variables of {export.path} are not what {INDEX} says: {shown or 'they'} may be cut "
        "off or damaged; copy it anew, or export the model again"
    )


def _unknown_op(match: re.Match[str], export: Export, asked: Asked) -> str:
    op = match[1]
    package = next((brings for start, brings in _PACKAGES.items() if op.startswith(start)), "")
    if package:
        helps = f"{package} brings it: install it and serve with --custom_op_library={package}"
    else:
        helps = (
            "if a package or a library brings it, name that with --custom_op_library; if a newer "
            "TensorFlow does, install that, or export the model with this one"
        )
    return (
        f"{export.path}, exported by TensorFlow {export.writer or 'of an unknown version'}, uses "
        f"the op {op}, which {_this(asked)} does not have; {helps}"
    )


def _too_new(match: re.Match[str], export: Export, _asked: Asked) -> str:
    needed, known, version = match.groups()
    writer = export.writer or "of a later version"
    return (
        f"{export.path} is in a newer format: TensorFlow {writer} exported it for graph version "
        f"{needed} and up, and TensorFlow {version} here reads up to {known}. Install the "
        "TensorFlow that exported it, or export it with this one"
    )


def _disallowed(match: re.Match[str], export: Export, asked: Asked) -> str:
    return (
        f"{export.path} was exported by TensorFlow {export.writer or 'of an unknown version'} not "
        f"to be read as graph version {match[1]}, which {_this(asked)} would do wrong; install "
        "another TensorFlow, or export it with this one"
    )


def _too_old(match: re.Match[str], export: Export, _asked: Asked) -> str:
    found, least, version = match.groups()
    return (
        f"{export.path} is in a format too old: it has graph version {found}, and TensorFlow "
        f"{version} here reads {least} and up; export it again"
    )


def _pinned(match: re.Match[str], export: Export, _asked: Asked) -> str:
    op, device, available = match.groups()
    found = ", ".join(name.partition("/task:0")[2] or name for name in available.split(", "))
    return (
        f"{export.path} pins its op {op} to {device}, and there are only {found}; "
        "--allow_soft_placement runs it on these, or serve it where that device is"
    )


def _no_kernel(match: re.Match[str], export: Export, _asked: Asked) -> str:
    op, devices = match.groups()
    return (
        f"{export.path} uses the op {op}, which cannot run on what is here, {devices}, with these "
        "types; serve it where the device is that it was made for, or export it for this one"
    )


def _this(asked: Asked) -> str:
    return f"TensorFlow {asked.tensorflow} here" if asked.tensorflow else "TensorFlow here"


def _first(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


_Told = Callable[[re.Match[str], Export, Asked], str]

_FAULTS: Final[Sequence[tuple[str, _Told]]] = (
    (r"does not appear to contain a SavedModel bundle", _no_saved_model),
    (r"Could not find meta graph def matching supplied tags", _wrong_tags),
    (r"(/[^;\n]*|[^\s;]+); No such file or directory", _file_missing),
    (r"(/[^;\n]*|[^\s;]+); Permission denied", _unreadable),
    (r"not an sstable", _index_damaged),
    (r"(?:Read less bytes|Checksum does not match).*RestoreV2", _variables_damaged),
    (r"^Read less bytes than requested$|Can't parse .*saved_model\.pb", _graph_unreadable),
    (r"Op type not registered '([^']+)'", _unknown_op),
    (
        r"min consumer version (\d+) above current version (\d+) for TensorFlow ([\w.+-]*\w)",
        _too_new,
    ),
    (r"GraphDef disallows consumer version (\d+)", _disallowed),
    (r"version (-?\d+) below min producer (\d+) supported by TensorFlow ([\w.+-]*\w)", _too_old),
    (r"device for operation (.+?): .*assigned to (\S+) but available .* \[ (.*?) \]", _pinned),
    (
        r"No OpKernel was registered to support Op '([^']+)'.*Registered devices: \[(.*?)\]",
        _no_kernel,
    ),
)
