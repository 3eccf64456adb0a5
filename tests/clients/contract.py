"""What every client program is told, and what it has to say.

The runner starts a program with the environment variables that ``Target`` names.  The program asks
the server everything it knows how to ask and prints ``version: …`` once and ``did: …`` for each
thing that went as it should.  The first thing that does not ends it, with its reason and an exit
code that is not 0.  Programs in other languages keep to the same words.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TIMEOUT_S: Final = 60.0
"""For what is to succeed."""

SHORT_S: Final = 0.2
"""For what is to be given up."""

LARGE_FLOATS: Final = 5_000_000
"""Twenty megabytes of them."""

MAX_COMPLAINT: Final = 4000
"""How much is shown of what a command said before it failed."""

NAMELESS: Final = "größe 100%"
"""A model that nobody serves; its name needs escapes in a status text."""

NOT_FOUND: Final = f"Servable not found for request: Latest({NAMELESS})"

PREDICT: Final = "/v1/models/half_plus_two:predict"


@dataclass(frozen=True)
class Target:
    """A server that serves ``half_plus_two``, ``all_dtypes`` and ``turnstile``."""

    grpc: str
    """``SALVER_GRPC``: host and port."""

    rest: str
    """``SALVER_REST``: the start of every URL."""

    ca: Path | None
    """``SALVER_CA``: the authority to trust with TLS, PEM; empty without TLS."""

    gate: Path
    """``SALVER_GATE``: a named pipe at which runs of ``turnstile`` wait while the program runs."""

    protos: Path
    """``SALVER_PROTOS``: a folder of .proto files, and beside it the same as ``public.binpb``."""

    calls: int = 10_000
    """``SALVER_CALLS``: how many on one connection."""

    def environment(self) -> dict[str, str]:
        """As environment variables."""
        return {
            "SALVER_GRPC": self.grpc,
            "SALVER_REST": self.rest,
            "SALVER_CA": str(self.ca or ""),
            "SALVER_GATE": str(self.gate),
            "SALVER_PROTOS": str(self.protos),
            "SALVER_CALLS": str(self.calls),
        }

    @property
    def descriptors(self) -> Path:
        """The compiled form of ``protos``."""
        return self.protos.with_suffix(".binpb")


def target_of(environment: Mapping[str, str]) -> Target:
    """What ``Target.environment`` wrote."""
    return Target(
        grpc=environment["SALVER_GRPC"],
        rest=environment["SALVER_REST"],
        ca=Path(environment["SALVER_CA"]) if environment["SALVER_CA"] else None,
        gate=Path(environment["SALVER_GATE"]),
        protos=Path(environment["SALVER_PROTOS"]),
        calls=int(environment["SALVER_CALLS"]),
    )


Checks = Mapping[str, Callable[[Any, Target], None]]  # Any: each stack has a client of its own
"""What to do with a client, by the words the table has for it."""


def run_checks(version: str, checks: Checks, client: Any, target: Target) -> None:
    """Do all of it with one client, and say so."""
    say("version", version)
    for name, check in checks.items():
        check(client, target)
        say("did", name)


def say(kind: str, text: str) -> None:
    """One line for the runner."""
    sys.stdout.write(f"{kind}: {text}\n")
    sys.stdout.flush()


def own_target() -> Target:
    """The target this program was started for."""
    return target_of(os.environ)


def output_of(*command: str | Path, error: str = "") -> str:
    """What a command prints; it has to succeed, or to fail with ``error`` in what it says."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=10 * TIMEOUT_S, check=False
    )
    said = done.stdout + done.stderr
    end = said[-MAX_COMPLAINT:]
    assert (done.returncode != 0) == bool(error), f"{words[0]} ended with {done.returncode}: {end}"
    assert error in said, f"{words[0]} did not say {error!r}: {end}"
    return said
