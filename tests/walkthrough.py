"""A page of the documentation, followed to the letter as a patient reader would.

Four kinds of fenced blocks mean something, and there must be no other:

``console``
    Lines after ``$`` are typed, the lines below each are its answer.  A server stays in its
    terminal, so below one stand lines of its log.
``log``
    What the server's terminal shows by and by.  ``^C`` is Ctrl-C.
``python``, ``textproto``, ``toml``
    A file; the line before the block ends with its name in backquotes and a colon.

What differs from one run to the next (times, ports, folders, versions) is made the same on both
sides before it is compared.  JSON is compared as values.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from server_process import ServerProcess, program

FILES = ("python", "textproto", "toml")
SERVERS = ("salver serve ", "tensorflow_model_server ", "tf_serving_entrypoint")
DONE_BEFORE = ("python3 -m venv", ". .venv", "pip install")
"""The installation, which whoever runs the tests has behind them."""

INSTALL = "pip install ."
"""What the page itself has written: installed into a folder of its own."""

ANSWER_TIMEOUT_S = 30

AT_ANY_TIME = "before or after"
"""What introduces a log line that may have come before those that the page showed last."""


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE_NAME = re.compile(r"`([\w.]+)`:$")
ASSIGNMENT = re.compile(r"[A-Z_]+=")

DIFFERS = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"), "<time>"),
    (re.compile(r"(?<=\.py:)\d+(?=\])"), "<line>"),
    (re.compile(r"(?<=^Date: ).*$", re.MULTILINE), "<date>"),
    (re.compile(r"\b\d+\.\d+\.\d+(?![.\d])"), "<version>"),
)


@dataclass(frozen=True)
class Block:
    """A fenced block, the line it begins at and the line of text before it."""

    kind: str
    text: str
    line: int
    introduction: str


@dataclass(frozen=True)
class Step:
    """Something to type and what it answers."""

    command: str
    answer: str


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for match in FENCE.finditer(page):
        before = page[: match.start()]
        introduction = before.rstrip().rpartition("\n")[2]
        yield Block(match[1], match[2], before.count("\n") + 1, introduction)


def steps(text: str) -> list[Step]:
    """The commands of a console block, each with its answer."""
    return [
        Step(*(part.strip("\n") for part in piece.partition("\n")[::2]))
        for piece in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    ]


def comparable(text: str) -> str:
    """``text`` without what differs from one run to the next."""
    for pattern, name in DIFFERS:
        text = pattern.sub(name, text)
    return text.strip()


def same(expected: str, got: str) -> bool:
    """Whether two answers say the same; JSON may be laid out as it likes."""
    try:
        return bool(json.loads(expected) == json.loads(got))
    except ValueError:
        return comparable(expected) == comparable(got)


class Reader:
    """Follows a page in a folder of their own; ends what is still running."""

    def __init__(self, folder: Path, *, folder_on_page: str) -> None:
        self.folder = folder
        self._folder_on_page = folder_on_page
        self._server: ServerProcess | None = None
        self._lines_seen = 0
        self._site = folder / "site-packages"

    def follow(self, page: str) -> None:
        """Do everything the page says, and compare every answer."""
        for block in blocks(page):
            self._do(block)

    def _do(self, block: Block) -> None:
        try:
            self._try(block)
        except AssertionError as error:
            raise AssertionError(f"in the block at line {block.line}: {error}") from error

    def _try(self, block: Block) -> None:
        if block.kind == "console":
            for step in steps(block.text):
                self._type(step)
        elif block.kind == "log":
            if AT_ANY_TIME in block.introduction:
                self._lines_seen = 0
            self._watch(block.text)
        else:
            name = FILE_NAME.search(block.introduction)
            assert block.kind in FILES, f"{block.kind!r} is no kind of block"
            assert name, f"{block.introduction!r} names no file"
            (self.folder / name[1]).write_text(self._here(block.text))

    def _type(self, step: Step) -> None:
        command = self._here(step.command)
        if command == INSTALL:
            self._install()
            return
        if command.startswith(DONE_BEFORE):
            return
        if any(server in command + " " for server in SERVERS):
            self._start(command)
            self._watch(step.answer)
            return
        got = self._on_page(self._answer(command))
        assert same(step.answer, got), f"{command}\nwas answered by\n{got}"

    def _answer(self, command: str) -> str:
        if command.startswith("python "):
            return self._run_python(shlex.split(command)[1:])
        if command.startswith("curl "):
            request, _, rest = command.partition(" | ")
            answer = curl(shlex.split(request)[1:])
            return self._run_in_shell(rest, answer) if rest else answer
        return self._run_in_shell(command)

    def _run_in_shell(self, command: str, given: str = "") -> str:
        path = f"{program('python').parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", command],  # noqa: S607 -- whichever shell the reader has
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env={**os.environ, **self._environment, "PATH": path},
            timeout=ANSWER_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\nfailed:\n{done.stdout}"
        return done.stdout

    def _install(self) -> None:
        """Let pip install the package that the page has written, with what is here already."""
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        alone = ["--no-index", "--no-deps", "--no-build-isolation", "--target", self._site]
        subprocess.run([*pip, *alone, self.folder], check=True)

    @property
    def _environment(self) -> dict[str, str]:
        """What makes the installed package be found."""
        return {"PYTHONPATH": str(self._site)} if self._site.exists() else {}

    def _run_python(self, words: list[str]) -> str:
        """Run a script in this process, which has TensorFlow imported; a new one would have to."""
        printed = io.StringIO()
        arguments, sys.argv = sys.argv, words
        try:
            with redirect_stdout(printed):
                runpy.run_path(str(self.folder / words[0]), run_name="__main__")
        finally:
            sys.argv = arguments
        return printed.getvalue()

    def _start(self, command: str) -> None:
        assert self._server is None, "the terminal is taken: the last server was not stopped"
        words = shlex.split(command)
        environment = self._environment
        while ASSIGNMENT.match(words[0]):
            name, _, environment[name] = words.pop(0).partition("=")
        split = 2 if words[0] == "salver" else 1
        flags = [word for word in words[split:] if not word.startswith(("--port", "--rest_api_p"))]
        self._lines_seen = 0
        self._server = ServerProcess(
            *flags, command=words[:split], environment=environment, folder=self.folder
        )

    def _watch(self, text: str) -> None:
        """Wait for each line in the log, in this order; there may be others in between."""
        assert self._server is not None, "there is no server to watch"
        for line in text.splitlines():
            if line == "^C":
                self._server.send(signal.SIGINT)
                continue
            self._lines_seen = self._server.wait_until(
                partial(self._position_after, comparable(line)), line
            )
        if text.startswith("^C"):
            self._server.wait()
            self._server = None

    def _position_after(self, wanted: str) -> int | None:
        assert self._server is not None
        for position, line in enumerate(self._server.log[self._lines_seen :], self._lines_seen + 1):
            if comparable(self._on_page(line)) == wanted:
                return position
        return None

    def _here(self, text: str) -> str:
        """What the page says, with this run's folder and ports."""
        text = text.replace(self._folder_on_page, str(self.folder))
        if self._server is not None:
            text = text.replace("localhost:8500", self._server.grpc_address)
            text = text.replace("localhost:8501", f"127.0.0.1:{self._server.rest_port}")
        return text

    def _on_page(self, text: str) -> str:
        """What this run says, with the page's folder and ports."""
        text = text.replace(str(self.folder), self._folder_on_page)
        if self._server is not None:
            text = re.sub(rf":{self._server.grpc_port}\b", ":8500", text)
            text = re.sub(rf":{self._server.rest_port}\b", ":8501", text)
        return text

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._server is not None:
            self._server.__exit__(*exc_info)


def curl(words: list[str]) -> str:
    """What curl prints, as far as the pages need it."""
    options = ArgumentParser()
    options.add_argument("url")
    options.add_argument("-d", dest="body")
    options.add_argument("-i", dest="with_head", action="store_true")
    options.add_argument("-s", dest="silent", action="store_true")
    asked = options.parse_args(words)
    where = urlsplit(f"http://{asked.url}")
    connection = http.client.HTTPConnection(where.netloc, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET" if asked.body is None else "POST", where.path, asked.body)
        response = connection.getresponse()
        body = response.read().decode()
    finally:
        connection.close()
    if not asked.with_head:
        return body
    head = "".join(f"{name}: {value}\n" for name, value in response.getheaders())
    return f"HTTP/1.1 {response.status} {response.reason}\n{head}\n{body}"
