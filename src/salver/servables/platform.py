"""The door through which a runtime comes in: an entry point, named as configurations name it.

A configuration says ``model_platform: "hashmap"``; a package that is installed has an entry point
``hashmap`` in the group ``salver.platforms``; what it names is a ``Platform``.  Nothing is imported
before a model of the platform loads, and nothing is looked for before a configuration names it.
The runtimes that come with Salver stand in the same group and are found without reading what is
installed, which costs 40 ms: more than a tenth of a start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

from salver.core.loader import Loader
from salver.core.servable_id import ServableId
from salver.errors import FailedPrecondition, InvalidArgument
from salver.servables.servable import Servable

if TYPE_CHECKING:  # at run time it is imported late: most servers never need it
    from importlib.metadata import EntryPoint

logger = logging.getLogger(__name__)

GROUP: Final = "salver.platforms"
"""The group of the entry points."""

BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {"tensorflow": "salver.servables.tensorflow:platform"}
)
"""What stands in the group for Salver itself; no other package can have one of these names."""

MakeLoader: TypeAlias = Callable[[ServableId, str], Loader[Servable]]
"""Makes the loader of one version, which lies in the folder (or file) at the path.

It returns at once: the work is the loader's, on a thread for loads.
"""


class Observer(Protocol):
    """Who is told what a runtime does besides loading and running.  Called from any thread."""

    def graph_built(self, took_s: float) -> None:
        """A set of feeds and fetches ran for the first time, and was compiled for that."""


@dataclass(frozen=True, slots=True)
class PlatformContext:
    """What a server tells a platform: values, so that another process can be told the same."""

    name: str
    """What configurations call the platform."""
    tags: tuple[str, ...] = ("serve",)
    """``--saved_model_tags``: which graph of a SavedModel is meant."""
    session_config: bytes = b""
    """A serialized ``tensorflow.ConfigProto``: threads and devices, from flags and files."""
    custom_op_libraries: tuple[str, ...] = ()
    """``--custom_op_library``."""
    model_devices: tuple[str, ...] = ()
    """``--model_devices``: the device of a model, ``NAME=DEVICE``; of others the runtime's own."""
    session_bundles: bool = False
    """``--load_session_bundles``: what ``tensorflow`` makes of TensorFlow's format of 2016."""
    prefer_tflite_model: bool = False
    """``--prefer_tflite_model``: whether a ``model.tflite`` goes before a SavedModel."""
    read_tflite_signatures: bool = False
    """``--read_tflite_signatures``: whether the signatures that TensorFlow Lite lists count."""
    num_tflite_pools: int = 1
    """``--num_tflite_pools``: the interpreters of a TensorFlow Lite model."""
    num_tflite_interpreters_per_pool: int = 1
    """``--num_tflite_interpreters_per_pool``: with more than one, large batches are split."""
    explains: bool = False
    """``--explain_load_errors``: whether an error of a load says what of the files is wrong."""
    observer: Observer | None = None
    """Absent in a process of a model's own."""

    def make_loader(self, platform: str) -> MakeLoader:
        """What makes the loaders of another platform in this server: for models made of models.

        Raises:
            ServingError: as ``find_platform``.
        """
        return find_platform(platform)(replace(self, name=platform))


class Platform(Protocol):
    """What an entry point names: a function, or a class or object that can be called like one."""

    def __call__(self, context: PlatformContext, /) -> MakeLoader:
        """What makes the loaders of the platform's models; called once per server and process.

        Whatever it raises fails the load of a version, which is tried again later.
        """


def is_installed(name: str) -> bool:
    """Whether there is such a platform; nothing is imported."""
    return name in BUILT_IN or bool(_entry_points(name))


def installed_platforms() -> list[str]:
    """The names of all platforms there are, in order; nothing is imported."""
    return sorted({*BUILT_IN, *(point.name for point in _entry_points())})


def find_platform(name: str) -> Platform:
    """Import the platform ``name``.  Takes as long as its package takes to be imported.

    Raises:
        InvalidArgument: there is none.
        FailedPrecondition: there are two, or it cannot be imported, or is nothing to call.
    """
    target = BUILT_IN.get(name) or _target(name)
    module, _, path = target.partition(":")
    try:
        found = attrgetter(path)(import_module(module))
    except (Exception, SystemExit) as error:
        logger.exception("Platform %s cannot be imported", name)
        raise FailedPrecondition(
            f"platform {name} ({target}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise FailedPrecondition(
            f"platform {name} ({target}) is {_kind(found)}, which cannot be called; it must be a "
            "function of a PlatformContext that returns what makes loaders"
        )
    return cast("Platform", found)


def version_bytes(path: str) -> int:
    """The size of a version's files: what most estimates of its memory begin with."""
    folder = Path(path)
    files: Iterable[Path] = [folder] if folder.is_file() else folder.rglob("*")
    return sum(_file_bytes(file) for file in files)


def _target(name: str) -> str:
    points = _entry_points(name)
    targets = sorted({point.value for point in points})
    if not targets:
        raise InvalidArgument(
            f"there is no platform {name}; installed are {', '.join(installed_platforms())}"
        )
    if len(targets) > 1:
        owners = ", ".join(sorted({point.dist.name for point in points if point.dist}))
        raise FailedPrecondition(
            f"platform {name} means {' and '.join(targets)}, of the packages {owners}; "
            "uninstall all but one"
        )
    return targets[0].partition("[")[0].strip()


def _entry_points(name: str | None = None) -> Sequence[EntryPoint]:
    """The entry points of other packages, all or those of one name, read anew each time."""
    from importlib.metadata import entry_points

    points = entry_points(group=GROUP) if name is None else entry_points(group=GROUP, name=name)
    return tuple(points)


def _kind(found: object) -> str:
    return f"of type {type(found).__name__}"


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # a file that goes away while we count weighs nothing
        return 0
