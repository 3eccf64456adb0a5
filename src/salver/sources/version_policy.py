"""Which children of a base path are versions, and which of them are wanted: pure functions.

The rules are TensorFlow Serving's.  A child whose name reads as a 64-bit integer is a version,
be it a directory or a file; leading zeros, a sign and white space around it do not matter; every
other child is passed over without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Latest:
    """The ``count`` highest versions; a count of 0 means 1, as an unset field does."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Every version."""


@dataclass(frozen=True, slots=True)
class Specific:
    """Exactly these versions; one that is not there is not waited for."""

    versions: tuple[int, ...]


VersionPolicy = Latest | All | Specific


@dataclass(frozen=True, slots=True)
class VersionChild:
    """A child of a base path, and the version that its name says."""

    version: int
    child: str


# Strictly ASCII, and never more digits than an int64 has after its zeros.
_NUMBER: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*([0-9]{1,19})[ \t\n\v\f\r]*")
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


def parse_version(child: str) -> int | None:
    """The version that a child's name says, or None where it says none."""
    match = _NUMBER.fullmatch(child)
    if match is None:
        return None
    version = int(match[1] + match[2])
    return version if _INT64_MIN <= version <= _INT64_MAX else None


def version_children(children: Iterable[str]) -> list[VersionChild]:
    """The children that are versions, in the order of their names.

    Some remote file systems list whole paths: only the part before the first ``/`` counts.
    """
    names = sorted({child.split("/", 1)[0] for child in children})
    versions = [(parse_version(name), name) for name in names]
    return [VersionChild(v, name) for v, name in versions if v is not None]


def choose(found: Sequence[VersionChild], policy: VersionPolicy) -> list[VersionChild]:
    """The children that ``policy`` wants of those ``found``, in the order of their names.

    Of several names for one number the last counts, except under ``All``, which wants them all:
    whoever hears of both takes the first.
    """
    if isinstance(policy, All):
        return list(found)
    by_version = {child.version: child for child in found}
    if isinstance(policy, Latest):
        wanted = set(sorted(by_version)[-max(policy.count, 1) :])
    else:
        wanted = set(policy.versions)
    return [child for version, child in by_version.items() if version in wanted]


def duplicates(found: Sequence[VersionChild]) -> list[int]:
    """The numbers that more than one child stands for, lowest first."""
    counts = Counter(child.version for child in found)
    return sorted(version for version, count in counts.items() if count > 1)
