"""A source that looks at directories, and wishes for the versions it finds there.

It remembers nothing of what it found before: each poll says what is there now.
What to make of a listing is decided in ``version_policy``; here is what touches files and threads.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from salver.core.servable_data import ServableData
from salver.core.servable_id import ServableId
from salver.core.source import Target
from salver.errors import InvalidArgument, NotFound, PermissionDenied, ServingError, Unknown
from salver.sources.version_policy import (
    Latest,
    Specific,
    VersionChild,
    VersionPolicy,
    choose,
    duplicates,
    version_children,
)

logger = logging.getLogger(__name__)

ACCESS_ERROR: Final = "FileSystemStoragePathSource encountered a filesystem access error: %s"


LATEST_ONE: Final = Latest()


@dataclass(frozen=True, slots=True)
class MonitoredServable:
    """Where the versions of one servable lie, and which of them are wanted."""

    name: str
    base_path: str
    policy: VersionPolicy = LATEST_ONE


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """How often the source has looked, and what it could not make sense of, by servable."""

    polls: int
    complaints: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Finding:
    versions: list[ServableData[str]]
    complaints: tuple[str, ...] = ()


class FileSystemSource:
    """Polls the base paths of a set of servables, which may be replaced at any time.

    A base path that cannot be listed is not the same as an empty one.  As in TensorFlow Serving it
    ends the poll, so that nothing changes for any servable.  An ``independent`` source passes over
    that servable, which keeps what it has, and says the same complaint only once.

    ``poll`` may be called from any thread, with ``start`` or without; polls never overlap.
    """

    def __init__(
        self,
        servables: Sequence[MonitoredServable],
        target: Target[str],
        *,
        poll_wait_s: float = 1.0,
        independent: bool = False,
        fail_if_zero_versions_at_startup: bool = False,
        servable_versions_always_present: bool = False,
        list_children: Callable[[str], Iterable[str]] = os.listdir,
        path_exists: Callable[[str], bool] = os.path.exists,
    ) -> None:
        """Watch ``servables``; ``poll_wait_s`` of 0 means one poll, less than 0 none.

        Raises:
            NotFound: versions are required from the start, and a servable has none.
            InvalidArgument: a name is listed twice, or a base path is not there though required.
        """
        self._target = target
        self._poll_wait_s = poll_wait_s
        self._independent = independent
        self._versions_required = (
            fail_if_zero_versions_at_startup or servable_versions_always_present
        )
        self._versions_stay = servable_versions_always_present
        self._list_children = list_children
        self._path_exists = path_exists
        self._poll_lock = threading.Lock()
        self._telling_lock = threading.Lock()  # held while the target is told, never while looking
        self._stopped = threading.Event()
        self._polls = 0
        self._complaints: dict[str, tuple[str, ...]] = {}
        self._servables = by_name(servables)
        self._require_versions(servables)

    def start(self) -> None:
        """Poll on a thread of our own: now, and then every ``poll_wait_s``."""
        if self._poll_wait_s < 0:
            return
        threading.Thread(target=self._run, name="salver-file-system-source", daemon=True).start()

    def stop(self) -> None:
        """Tell the target nothing more; a look in progress ends by itself, unheard."""
        with self._telling_lock:
            self._stopped.set()

    def update_config(self, servables: Sequence[MonitoredServable]) -> None:
        """Watch ``servables`` in place of those before.

        One that is gone is un-aspired at once, without a look; the others wait for the next poll.

        Raises:
            NotFound, InvalidArgument: as at the start, for servables that are new; nothing changed.
        """
        new = by_name(servables)
        self._require_versions([s for s in servables if s.name not in self._servables])
        with self._telling_lock:
            removed = [name for name in self._servables if name not in new]
            self._servables = new
            for name in removed:
                self._complaints.pop(name, None)
                self._target.set_aspired_versions(name, [])

    def poll(self) -> None:
        """Look at every base path once, then tell the target what is there."""
        with self._poll_lock:
            self._polls += 1
            findings: list[tuple[MonitoredServable, _Finding]] = []
            for servable in self._servables.values():
                finding = self._try_look(servable)
                if finding is not None:
                    findings.append((servable, finding))
                elif not self._independent:
                    return
            for servable, finding in findings:
                self._complain(servable, logging.WARNING, *finding.complaints)
                self._tell(servable, finding.versions)

    def statistics(self) -> SourceStatistics:
        """What the polls came to so far."""
        return SourceStatistics(self._polls, dict(self._complaints))

    def _run(self) -> None:
        self._try_poll()
        if self._poll_wait_s == 0:
            return
        while not self._stopped.wait(self._poll_wait_s):
            self._try_poll()

    def _try_poll(self) -> None:
        try:
            self.poll()
        except Exception:
            logger.exception("A poll of the file system failed; the next one follows")

    def _tell(self, servable: MonitoredServable, versions: list[ServableData[str]]) -> None:
        if not versions and self._versions_stay:
            logger.warning(
                "Servable %s has no versions any more; its last ones stay", servable.name
            )
            return
        with self._telling_lock:
            is_current = self._servables.get(servable.name) is servable
            if is_current and not self._stopped.is_set():
                self._target.set_aspired_versions(servable.name, versions)

    def _complain(self, servable: MonitoredServable, level: int, *complaints: str) -> None:
        is_said = self._complaints.get(servable.name, ()) == complaints
        if complaints:
            self._complaints[servable.name] = complaints
        else:
            self._complaints.pop(servable.name, None)
        if is_said and self._independent:
            return
        for complaint in complaints:
            logger.log(level, "%s", complaint)

    def _require_versions(self, servables: Sequence[MonitoredServable]) -> None:
        if not self._versions_required:
            return
        for servable in servables:
            if not self._look(servable).versions:
                raise NotFound(
                    "Unable to find a numerical version path for servable "
                    f"{servable.name} at: {servable.base_path}"
                )

    def _try_look(self, servable: MonitoredServable) -> _Finding | None:
        try:
            return self._look(servable)
        except ServingError as error:
            self._complain(servable, logging.ERROR, ACCESS_ERROR % error.message)
            return None

    def _look(self, servable: MonitoredServable) -> _Finding:
        plain = self._plainly_named(servable)
        if plain is not None:
            return _Finding(_aspired(servable, plain))
        found = version_children(self._children(servable))
        wanted = choose(found, servable.policy)
        return _Finding(
            _aspired(servable, wanted), tuple(complaints_about(servable, found, wanted))
        )

    def _plainly_named(self, servable: MonitoredServable) -> list[VersionChild] | None:
        """The specific versions asked for, if all of them lie there under their plain names.

        Spares listing a directory that may hold thousands.
        """
        policy = servable.policy
        if not isinstance(policy, Specific) or not policy.versions:
            return None
        plain = [VersionChild(version, str(version)) for version in sorted(set(policy.versions))]
        folder = folder_of(servable.base_path)
        is_there = all(self._path_exists(_join(folder, c.child)) for c in plain)
        return plain if is_there else None

    def _children(self, servable: MonitoredServable) -> list[str]:
        try:
            return list(self._list_children(folder_of(servable.base_path)))
        except (OSError, ValueError) as error:
            raise InvalidArgument(
                f"Could not find base path {servable.base_path} for servable {servable.name} "
                f"with error {_status_of(error, servable.base_path)}"
            ) from error


def folder_of(base_path: str) -> str:
    """The folder that a base path of this machine means, be it written as a URI or as a path."""
    scheme, found, path = base_path.partition("://")
    return path.removeprefix("localhost") if found and scheme == "file" else base_path


def by_name(servables: Sequence[MonitoredServable]) -> dict[str, MonitoredServable]:
    """The servables by their names.

    Raises:
        InvalidArgument: two have one name.
    """
    named = {servable.name: servable for servable in servables}
    if len(named) < len(servables):
        names = sorted(servable.name for servable in servables)
        raise InvalidArgument(f"a servable is listed more than once among {', '.join(names)}")
    return named


def _aspired(
    servable: MonitoredServable, children: Sequence[VersionChild]
) -> list[ServableData[str]]:
    folder = folder_of(servable.base_path)
    return [
        ServableData(ServableId(servable.name, c.version), _join(folder, c.child)) for c in children
    ]


def complaints_about(
    servable: MonitoredServable, found: Sequence[VersionChild], wanted: Sequence[VersionChild]
) -> Iterable[str]:
    """What somebody should know of a listing: doubles, and versions that are missed."""
    name, base_path, policy = servable.name, servable.base_path, servable.policy
    for version in duplicates(found):
        names = ", ".join(repr(c.child) for c in found if c.version == version)
        yield (
            f"Duplicate version directories detected: {names} under {base_path} "
            f"all say version {version} of servable {name}"
        )
    if isinstance(policy, Specific):
        if not policy.versions:
            yield f"No specific versions requested for servable {name}."
            return
        there = {child.version for child in wanted}
        for version in sorted(set(policy.versions) - there):
            yield (
                f"Version {version} of servable {name} is asked for by its version policy "
                f"and not there under base path {base_path}"
            )
    if not found:
        yield (
            f"No versions of servable {name} found under base path {base_path}. "
            "Did you forget to name your leaf directory as a number (eg. '/1/')?"
        )


def _join(base_path: str, child: str) -> str:
    return f"{base_path.rstrip('/')}/{child}"


def _status_of(error: OSError | ValueError, path: str) -> ServingError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{path} not found")
    if isinstance(error, PermissionError):
        return PermissionDenied(f"{path}; {error.strerror}")
    return Unknown(f"{path}; {error}")
