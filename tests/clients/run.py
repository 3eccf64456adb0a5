"""Clients of many makers against a real server, in the clear and over TLS: `make clients`.

    python tests/clients/run.py [NAME ...] [--list] [--calls N]

A stack whose tools are not on this machine is named and left out.  The others are made in
`.cache/clients` (that needs the network once), asked to do all they know, and must succeed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from clients.servers import Served, serve  # noqa: E402 - the path comes first
from saved_models import Shelf  # noqa: E402

CACHE: Final = ROOT / ".cache/clients"

LEFT_OUT: Final = "left out"

MAKING_S: Final = 1200.0
RUNNING_S: Final = 300.0

PYTHON: Final = (sys.executable, "-m")


@dataclass(frozen=True)
class Stack:
    """One client: how it is made in its folder of the cache, and how it is run there."""

    run: Sequence[str]
    needs: Sequence[str] = ()
    """Commands that have to be on this machine."""
    imports: Sequence[str] = ()
    """Packages that this Python has to have."""
    make: Sequence[Sequence[str]] = ()
    source: str = ""
    """The folder beside this file that is copied to the cache."""
    makes: str = ""
    """What is there when it is made; anything newer in its source makes it again."""


def go_tool(name: str, module: str) -> Stack:
    """A command that ``go install`` makes, driven by a program of ours."""
    return Stack(
        run=(*PYTHON, f"clients.commands.{name}"),
        needs=("go",),
        make=(("go", "install", module),),
        makes=name,
    )


def python(name: str, *arguments: str, imports: Sequence[str]) -> Stack:
    """A program for this very Python."""
    return Stack(run=(*PYTHON, f"clients.python.{name}", *arguments), imports=imports)


def go(name: str, *arguments: str) -> Stack:
    """A program of the folder ``go``."""
    return Stack(
        run=(f"made/{name}", *arguments),
        needs=("go",),
        make=(("go", "build", "-mod=mod", "-o", "made/", "./..."),),  # which writes a go.sum, too
        source="go",
        makes=f"made/{name}",
    )


def node(program: str) -> Stack:
    """A program of the folder ``node``."""
    return Stack(
        run=("node", program),
        needs=("node", "npm"),
        make=(("npm", "install", "--no-package-lock", "--no-audit", "--no-fund"),),
        source="node",
        makes="node_modules",
    )


def java(program: str, *arguments: str) -> Stack:
    """A class of the folder ``java``."""
    return Stack(
        run=("java", "-cp", "target/clients-1.jar:target/lib/*", program, *arguments),
        needs=("java", "mvn"),
        make=(("mvn", "-q", "-B", "package"),),
        source="java",
        makes="target/clients-1.jar",
    )


STACKS: Final = {
    "grpcio": python("grpcio_sync", imports=("grpc", "tensorflow_serving")),
    "grpcio-aio": python("grpcio_aio", imports=("grpc", "tensorflow_serving")),
    "grpc-go": go("grpcgo"),
    "ghz": go_tool("ghz", "github.com/bojand/ghz/cmd/ghz@v0.93.0"),
    "grpcurl": go_tool("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"),
    "grpc-js": node("grpc.mjs"),
    "grpc-java": java("GrpcClient"),
    "tonic": Stack(
        run=("target/release/tonic-client",),
        needs=("cargo",),
        make=(("cargo", "build", "--quiet", "--release"),),
        source="rust",
        makes="target/release/tonic-client",
    ),
    "h2load": Stack(run=(*PYTHON, "clients.commands.h2load"), needs=("h2load",)),
    "nghttp": Stack(run=(*PYTHON, "clients.commands.nghttp"), needs=("nghttp",)),
    "curl": Stack(run=(*PYTHON, "clients.commands.curl"), needs=("curl",)),
    "requests": python("rest_requests", imports=("requests",)),
    "httpx-http1": python("rest_httpx", "http1", imports=("httpx",)),
    "httpx-http2": python("rest_httpx", "http2", imports=("httpx", "h2")),
    "go-http1": go("nethttp", "HTTP/1.1"),
    "go-http2": go("nethttp", "HTTP/2.0"),
    "node-fetch": node("fetch.mjs"),
    "node-http2": node("http2.mjs"),
    "java-http1": java("RestClient", "HTTP_1_1"),
    "java-http2": java("RestClient", "HTTP_2"),
}


@dataclass
class Row:
    """A line of the table."""

    name: str
    version: str = ""
    plaintext: str = ""
    tls: str = ""
    did: dict[str, list[str]] = field(default_factory=dict)
    """What went as it should, in the clear and over TLS."""

    @property
    def failed(self) -> bool:
        return "FAILED" in (self.plaintext, self.tls)


def main() -> int:
    """Run those that are named, or all; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run (all)")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--calls", type=int, default=10_000, help="on one connection (10000)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(STACKS):
        parser.error(f"no stack is called {', '.join(sorted(unknown))}; see --list")
    if arguments.list:
        say("\n".join(STACKS))
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    shelf = Shelf(CACHE / "models")
    with ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory()))
        clear = servers.enter_context(serve(shelf, folder / "clear", tls=False))
        secure = servers.enter_context(serve(shelf, folder / "tls", tls=True))
        rows = [row_of(name, clear, secure, arguments.calls) for name in arguments.names or STACKS]
    say_table(rows)
    say_summary(rows)
    return int(any(row.failed for row in rows))


def row_of(name: str, clear: Served, secure: Served, calls: int) -> Row:
    """Make a client and run it against both servers."""
    stack = STACKS[name]
    row = Row(name)
    missing = [command for command in stack.needs if shutil.which(command) is None]
    missing += [package for package in stack.imports if find_spec(package) is None]
    if missing:
        row.version = f"{LEFT_OUT}: {' and '.join(missing)} not on this machine"
        say(f"{name}: {row.version}")
        return row
    trouble = make(stack)
    if trouble:
        say(f"{name}: it could not be made\n{trouble}")
        row.plaintext = row.tls = "FAILED"
        row.version = "it could not be made"
        return row
    row.plaintext = run(name, row, clear, calls)
    row.tls = run(name, row, secure, calls)
    return row


def folder_of(stack: Stack) -> Path:
    return CACHE / (stack.source or "bin")


def make(stack: Stack) -> str:
    """Make a client, if it is not there or older than its source; what went wrong."""
    folder = folder_of(stack)
    folder.mkdir(exist_ok=True)
    if not stack.make or not is_stale(stack):
        return ""
    if stack.source:
        shutil.copytree(HERE / stack.source, folder, dirs_exist_ok=True)
    environment = {**os.environ, "GOBIN": str(folder)}
    for command in stack.make:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=MAKING_S,
            check=False,
        )
        if done.returncode:
            return f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    os.utime(folder / stack.makes)
    return ""


def is_stale(stack: Stack) -> bool:
    made = folder_of(stack) / stack.makes
    if not made.exists():
        return True
    source = HERE / stack.source if stack.source else Path(__file__)
    written = [file.stat().st_mtime for file in (source, *source.rglob("*"))]
    return max(written) > made.stat().st_mtime


def run(name: str, row: Row, served: Served, calls: int) -> str:
    """Run a client against a server; the word for its column."""
    stack = STACKS[name]
    started = perf_counter()
    with served.target(name, calls) as target:
        environment = {
            **os.environ,
            **target.environment(),
            "PYTHONPATH": f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "PATH": f"{CACHE / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "NODE_EXTRA_CA_CERTS": str(target.ca or ""),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        for proxy in [each for each in environment if each.lower().endswith("_proxy")]:
            del environment[proxy]
        try:
            done = subprocess.run(
                stack.run,
                cwd=folder_of(stack),
                env=environment,
                capture_output=True,
                text=True,
                timeout=RUNNING_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return failed(name, served, f"it was not done after {RUNNING_S:g} s: {error.stdout!r}")
    lines = done.stdout.splitlines()
    said = [line.partition(": ")[2] for line in lines if line.startswith("did: ")]
    said = [f"{calls:,} calls" if each == "calls" else each for each in said]
    if done.returncode or not said:
        return failed(name, served, f"it ended with {done.returncode}\n{done.stdout}{done.stderr}")
    row.version = next(line[9:] for line in lines if line.startswith("version: "))
    row.did[way(served)] = said
    say(f"{name}, {way(served)}: {perf_counter() - started:.1f} s, {', '.join(said)}")
    return "passed"


def failed(name: str, served: Served, why: str) -> str:
    say(f"{name}, {way(served)}: FAILED, {why}")
    return "FAILED"


def way(served: Served) -> str:
    return "TLS" if served.ca else "plaintext"


def say_table(rows: Sequence[Row]) -> None:
    """As Markdown."""
    say("\n| stack | version | plaintext | TLS | what was done |\n|---|---|---|---|---|")
    for row in rows:
        cells = (row.name, row.version, row.plaintext, row.tls, summary_of(row.did))
        say(f"| {' | '.join(cells)} |")


def say_summary(rows: Sequence[Row]) -> None:
    """Which were tried, which were not, and which of them failed."""
    left_out = [row.name for row in rows if row.version.startswith(LEFT_OUT)]
    wrong = [row.name for row in rows if row.failed]
    said = f"\n{len(rows) - len(left_out)} of {len(rows)} stacks tried"
    said += f"; failed: {', '.join(wrong)}" if wrong else "; none failed"
    say(said + (f"; left out: {', '.join(left_out)}" if left_out else ""))


def summary_of(did: Mapping[str, Sequence[str]]) -> str:
    """Each thing once, and where it was done if not everywhere."""
    ways = {what: [way for way in did if what in did[way]] for way in did for what in did[way]}
    return ", ".join(
        what if len(where) == len(did) else f"{what} ({where[0]})" for what, where in ways.items()
    )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
