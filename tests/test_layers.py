"""The rows of the house, enforced.

Every import of ``src/salver`` is read from the source, wherever it stands: in a function, or for
type checkers only.  Imports go down the rows; rooms of one row never meet.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

ROWS: Final[Mapping[int, frozenset[str]]] = {
    9: frozenset({"__main__"}),
    8: frozenset({"cli"}),
    7: frozenset({"model_server"}),
    6: frozenset({"inference"}),
    5: frozenset({"apis", "servables", "sources", "wire"}),
    4: frozenset({"batching"}),
    3: frozenset({"core", "signature"}),
    2: frozenset({"metrics", "saved_model_files", "tensors"}),
    1: frozenset({"dtypes", "protos", "varints"}),
    0: frozenset({"errors"}),
}
"""Who lives where; a room is a package or a module right under ``salver``."""

FURNITURE: Final[Mapping[str, frozenset[str]]] = {
    "core": frozenset({"errors"}),  # and the standard library, nothing else
    "wire": frozenset({"errors", "metrics", "protos", "varints"}),  # no model, no tensor
    "apis": frozenset({"signature", "metrics", "tensors", "errors", "dtypes", "protos", "varints"}),
}
"""Rooms that may use less than all rows below: the lifecycle, the sockets, the codecs."""

FRAMEWORKS: Final = frozenset(
    {
        "ai_edge_litert",
        "tensorflow",
        "keras",
        "openvino",
        "onnxruntime",
        "torch",
        "jax",
        "sklearn",
        "xgboost",
    }
)
"""Each may be imported in ``servables/<its name>.py`` only."""

RUNTIMES: Final[Mapping[str, str]] = {"ai_edge_litert": "litert"}
"""Where a framework is called otherwise than its package."""

TEST_ONLY: Final = frozenset({"grpc", "h2", "hpack"})
"""Oracles and clients of the tests: the wire is our own."""

FROM_SALVER: Final = "from salver"
"""How ``from salver import x`` is reported; ``import salver``, for its version, is fine."""


@dataclass(frozen=True)
class Import:
    """One imported name, and where: ``module`` imports ``target`` in ``line``."""

    module: str
    line: int
    target: str
    at_top: bool

    @property
    def room(self) -> str:
        return room_of(self.module)

    @property
    def package(self) -> str:
        return self.target.split(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def test_imports_go_down_the_rows():
    """Every import of the sources obeys every rule of the house."""
    assert complaints(ROOT / "src") == []


def test_every_rule_can_fail(tmp_path):
    """A tree that breaks each rule once is told so for each, with module and line."""
    plant(tmp_path, "errors", "import salver.tensors")
    plant(tmp_path, "metrics", "def f():\n    from salver.tensors import x")
    plant(tmp_path, "wire/http1", "from salver.signature import Signature")
    plant(
        tmp_path,
        "core/manager",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy",
    )
    plant(tmp_path, "cli/serve", "from salver import errors")
    plant(tmp_path, "cli/flags", "from . import serve")
    plant(tmp_path, "servables/tensorflow", "import tensorflow")
    plant(tmp_path, "servables/litert", "import ai_edge_litert.interpreter")
    plant(tmp_path, "inference", "def f():\n    import openvino")
    plant(tmp_path, "model_server/server", "import grpc.aio")
    plant(tmp_path, "attic/old", "import os")

    assert complaints(tmp_path) == [
        "salver.attic.old: attic stands in no row",
        "salver.cli.flags:1 imports .: relative",
        "salver.cli.serve:1 imports from salver: name the module instead",
        "salver.core.manager:3 imports numpy: core uses the standard library only",
        "salver.errors:1 imports salver.tensors: not down the rows",
        "salver.inference:2 imports openvino: its place is salver.servables.openvino",
        "salver.metrics:2 imports salver.tensors: not down the rows",
        "salver.model_server.server:1 imports grpc.aio: only tests may",
        "salver.servables.litert:1 imports ai_edge_litert.interpreter: on top of a module",
        "salver.servables.tensorflow:1 imports tensorflow: on top of a module",
        "salver.wire.http1:1 imports salver.signature: wire may not know it",
    ]


def test_good_tree_has_no_complaints(tmp_path):
    """Imports down the rows and inside a room are what the rules allow."""
    plant(tmp_path, "errors", "from enum import IntEnum")
    plant(tmp_path, "core/loader", "import threading\nfrom salver.errors import NotFound")
    plant(tmp_path, "core/manager", "from salver.core.loader import Loader")
    plant(tmp_path, "servables/tensorflow", "def f():\n    import tensorflow")
    plant(tmp_path, "cli/serve", "from salver.model_server.server import Server")

    assert complaints(tmp_path) == []


def test_importing_the_package_imports_nothing_else():
    """``import salver`` brings in no other module, so it costs nothing."""
    code = "import sys; before = set(sys.modules); import salver; print(*set(sys.modules) - before)"
    python = [sys.executable, "-c", code]

    imported = subprocess.run(python, check=True, capture_output=True, text=True, timeout=60)

    assert imported.stdout.split() == ["salver"]


def test_no_file_names_a_package_registry():
    """The pins hold names, versions and hashes; where packages come from is the reader's choice."""
    registries = re.compile(r"\b(pypi|pythonhosted|npmjs|debian|golang|conda)\.(org|io)\b")

    guilty = [str(path.relative_to(ROOT)) for path in text_files() if registries.search(text(path))]

    assert guilty == []


# --- the rules ------------------------------------------------------------------------------------


def complaints(source: Path) -> list[str]:
    """What is wrong with the imports under ``source``, in the order of the modules."""
    modules = sorted((name_of(path, source), path) for path in source.rglob("*.py"))
    homeless = [
        f"{module}: {room_of(module)} stands in no row"
        for module, _ in modules
        if module != "salver" and row_of(room_of(module)) is None
    ]
    found = [
        f"{one}: {wrong}"
        for module, path in modules
        for one in imports_of(module, ast.parse(path.read_text(encoding="utf-8")))
        if (wrong := what_is_wrong(one))
    ]
    return sorted(homeless + found)


def what_is_wrong(one: Import) -> str | None:
    """The rule that an import breaks, if it breaks one."""
    if one.target.startswith("."):
        return "relative"
    if one.target == FROM_SALVER:
        return "name the module instead"
    if one.package == "salver":
        return what_is_wrong_inside(one)
    place = f"salver.servables.{RUNTIMES.get(one.package, one.package)}"
    if one.package in FRAMEWORKS and one.module != place:
        return f"its place is {place}"
    if one.package in FRAMEWORKS and one.at_top:
        return "on top of a module"
    if one.package in TEST_ONLY:
        return "only tests may"
    if one.room == "core" and one.package not in sys.stdlib_module_names:
        return "core uses the standard library only"
    return None


def what_is_wrong_inside(one: Import) -> str | None:
    """The rule that an import of one of our own modules breaks."""
    room = room_of(one.target)
    if not room:
        return None
    here, there = row_of(one.room), row_of(room)
    if room == one.room or here is None:
        return None
    if there is None or there >= here:
        return "not down the rows"
    if one.room in FURNITURE and room not in FURNITURE[one.room]:
        return f"{one.room} may not know it"
    return None


def imports_of(module: str, tree: ast.AST, *, at_top: bool = True) -> Iterator[Import]:
    """Every import below a node; ``from a import b`` names ``a``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(module, node.lineno, name.name, at_top)
        elif isinstance(node, ast.ImportFrom):
            target = "." * node.level + (node.module or "")
            target = FROM_SALVER if target == "salver" else target
            yield Import(module, node.lineno, target, at_top)
        else:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_of(module, node, at_top=at_top and not is_function)


def row_of(room: str) -> int | None:
    return next((row for row, rooms in ROWS.items() if room in rooms), None)


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def name_of(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# --- files ----------------------------------------------------------------------------------------


def plant(source: Path, module: str, code: str) -> None:
    """Write one module of a made-up tree."""
    path = source / "salver" / f"{module}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")


def text_files() -> Iterator[Path]:
    """What the project consists of: files that are text, outside of environments and caches."""
    kinds = {
        ".py",
        ".pyi",
        ".md",
        ".txt",
        ".toml",
        ".cfg",
        ".json",
        ".proto",
        ".yml",
        ".yaml",
        ".sh",
    }
    for entry in sorted(ROOT.iterdir()):
        if entry.is_dir() and (not entry.name.startswith(".") or entry.name == ".ci"):
            for path in sorted(entry.rglob("*")):
                if path.is_file() and (path.suffix in kinds or entry.name == ".ci"):
                    yield path
        elif entry.is_file():
            yield entry


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
