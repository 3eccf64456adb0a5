"""TensorFlow 2.15, the last one with Estimators, in an environment of its own.

    environment.py      makes it if need be, and prints the path of its Python

It is made once, under ``.cache/``, with every package pinned by hash in
``constraints-estimator.txt``, and appears there whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CONSTRAINTS: Final = ROOT / "constraints-estimator.txt"
CACHE: Final = ROOT / ".cache"
PYTHONS: Final = ((3, 11), (3, 10))
"""For which TensorFlow 2.15 and its pins exist, the better first."""

INSTALL: Final = (
    *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
    *("--require-hashes", "--no-deps", "--only-binary", ":all:"),
)


class NoTensorFlow215Error(Exception):
    """TensorFlow 2.15 cannot be had here; the message says what would help."""


def python() -> Path:
    """The Python that can import TensorFlow 2.15; the first call takes a while."""
    digest = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()[:12]
    folder = CACHE / f"tensorflow-2.15-{digest}"
    if not folder.exists():
        make(folder)
    return folder / "bin" / "python"


def make(folder: Path) -> None:
    """Build it beside its place and move it there: a folder that is there is complete."""
    interpreter = find_interpreter()
    print(f"  installing TensorFlow 2.15 into {folder.relative_to(ROOT)}, once", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as building:
        unfinished = Path(building, folder.name)
        do([interpreter, "-m", "venv", str(unfinished)])
        do([str(unfinished / "bin" / "python"), *INSTALL, "--requirement", str(CONSTRAINTS)])
        with contextlib.suppress(OSError):  # somebody else was faster, and theirs is as good
            unfinished.rename(folder)


def find_interpreter() -> str:
    """A Python of the right age: this one, one on the path, or one that uv knows or fetches."""
    for candidate in candidates():
        if is_suitable(candidate):
            return candidate
    raise NoTensorFlow215Error(
        "TensorFlow 2.15 needs Python 3.11 or 3.10, and neither is here: install one of them, "
        "or uv, which fetches it"
    )


def candidates() -> Iterator[str]:
    """Where such a Python may be, the nearest first; each is looked for when it is its turn."""
    yield sys.executable
    names = [f"{major}.{minor}" for major, minor in PYTHONS]
    yield from filter(None, (shutil.which(f"python{name}") for name in names))
    uv = shutil.which(Path(sys.executable).with_name("uv")) or shutil.which("uv")
    if uv is None:
        return
    for name in names:
        yield from output_of([uv, "python", "find", name])
    output_of([uv, "python", "install", names[0]])
    yield from output_of([uv, "python", "find", names[0]])


def is_suitable(interpreter: str) -> bool:
    """Whether it runs, has the age, and can make environments."""
    question = "import sys, venv, ensurepip; print(sys.version_info[:2])"
    return output_of([interpreter, "-c", question]) in [[str(version)] for version in PYTHONS]


def output_of(command: Sequence[str]) -> list[str]:
    """The lines that a command prints; none if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def do(command: Sequence[str]) -> None:
    """Run a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().split("\n")[-1]
        raise NoTensorFlow215Error(f"TensorFlow 2.15 cannot be installed here: {said}")


if __name__ == "__main__":
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = python()
        print(found)
    except NoTensorFlow215Error as error:
        sys.exit(str(error))
