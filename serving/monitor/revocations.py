"""Which operating points are revoked, in this process and over restarts.

What is revoked here stays revoked until the file shows that an operator reinstated that very entry. An
entry that is missing from the file is written to it, however it got lost: nothing comes back because a
file was replaced, emptied or removed. One thread reads and writes the file, at once where there is
something to write or somebody asks, and once a minute for what others wrote. Without a folder
revocations last as long as the process.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from serving.errors import ConfigurationError
from serving.exits.points import RevokedBy
from serving.monitor.monitor import Revocation
from serving.monitor.revocation_file import Entries, RevocationFile, RevokedPoint

_LOG = structlog.get_logger(__name__)

LOOK_SECONDS = 60.0
"""How often the file is read for what others wrote."""
RETRY_SECONDS = 5.0
"""How long after a failure something is written again."""


class Revocations:
    """The revocations in force, kept in step with the file of a state folder."""

    def __init__(self, state_dir: Path | None) -> None:
        """Read what is there; raise ConfigurationError where that, or writing to it, is impossible."""
        self._file = None if state_dir is None else RevocationFile(state_dir)
        self._lock = threading.Lock()
        self._in_force: dict[object, RevokedPoint] = {}
        """By key. What is added here is either in the file or will be written to it."""
        self._written: set[object] = set()
        """Keys of the entries that the file was last seen to hold."""
        self._due = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._complaint = ""
        if self._file is not None:
            self._take(self._file.read())

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin to keep the file; on_change is called after each look at it, in the thread that does."""
        if self._file is not None:
            work = (self._file, on_change)
            self._thread = threading.Thread(target=self._run, args=work, name="revocations", daemon=True)
            self._thread.start()

    def note(self, model: str, version: int, revocation: Revocation) -> None:
        """Note that the monitor revokes a point: it holds at once, and is written soon."""
        entry = RevokedPoint(model=model, version=version, revoked=now(), **vars(revocation))
        with self._lock:
            self._in_force[entry.key] = entry
        self._due.set()

    def look(self) -> None:
        """Have the file read soon; does not wait for it."""
        self._due.set()

    def revoked_by(self, model: str, version: int, operating_point: str) -> RevokedBy | None:
        """Return who revoked a point; None where it is in force."""
        with self._lock:
            entries = [
                each for each in self._in_force.values() if each.covers(model, version, operating_point)
            ]
        return entries[0].by if entries else None

    def unwritten(self) -> list[str]:
        """Return what is revoked here and not in the file; nothing without a folder."""
        if self._file is None:
            return []
        with self._lock:
            return [entry.scope for key, entry in self._in_force.items() if key not in self._written]

    def close(self, seconds: float) -> None:
        """Try once more to write what is not yet written, and stop; waits at most so long."""
        self._closing = True
        self._due.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, file: RevocationFile, on_change: Callable[[], None]) -> None:
        while True:
            is_last = self._closing
            try:
                self._look(file)
                on_change()
                self._complaint = ""
            except ConfigurationError as error:
                self._complain(str(error))
            except Exception as error:  # our own bug: revocations hold here all the same
                _LOG.error("revocations not kept", exc_info=error)
            if is_last:
                return
            self._due.wait(RETRY_SECONDS if self.unwritten() else LOOK_SECONDS)
            self._due.clear()

    def _look(self, file: RevocationFile) -> None:
        """Add to the file what is missing from it, and take in what it holds."""
        entries = file.read()
        if self._missing_from(entries):
            entries = file.change(lambda there: (*there, *self._missing_from(there)))
        self._take(entries)

    def _missing_from(self, entries: Entries) -> Entries:
        keys = {entry.key for entry in entries}
        with self._lock:
            return tuple(entry for key, entry in self._in_force.items() if key not in keys)

    def _take(self, entries: Entries) -> None:
        with self._lock:
            self._written = {entry.key for entry in entries}
            for entry in entries:
                if entry.reinstated is None:
                    self._in_force[entry.key] = entry
                else:
                    self._in_force.pop(entry.key, None)

    def _complain(self, complaint: str) -> None:
        """Log that the file can't be read or written; once, as the thread tries again and again."""
        if complaint != self._complaint:
            _LOG.error("state folder unusable", error=complaint)
        self._complaint = complaint


def revoke(state_dir: Path, model: str, version: int | None, operating_point: str | None) -> RevokedPoint:
    """Revoke by an operator's command; returns the entry, the earlier one where there is one already."""
    new = RevokedPoint(
        model=model, version=version, operating_point=operating_point, revoked=now(), by="operator"
    )

    def with_new(entries: Entries) -> Entries:
        return entries if any(map(is_same, entries)) else (*entries, new)

    def is_same(entry: RevokedPoint) -> bool:
        return (entry.scope, entry.by, entry.reinstated) == (new.scope, "operator", None)

    return next(filter(is_same, RevocationFile(state_dir).change(with_new)))


def reinstate(state_dir: Path, model: str, version: int | None, operating_point: str | None) -> Entries:
    """Reinstate by an operator's command all that was revoked within a scope; returns those entries.

    Raises ConfigurationError where there is none, or where a wider entry also covers the scope.
    """
    scope = (model, version, operating_point)
    name = "/".join(str(part) for part in scope if part is not None)
    done: list[RevokedPoint] = []

    def without(entries: Entries) -> Entries:
        in_force = [each for each in entries if each.reinstated is None]
        done.extend(each for each in in_force if each.lies_within(*scope))
        wider = [each for each in in_force if each.covers(*scope) and not each.lies_within(*scope)]
        if wider:
            raise ConfigurationError(f"{name} is revoked by {wider[0].scope}: reinstate {wider[0].scope}")
        return tuple(
            each.model_copy(update={"reinstated": now()}) if each in done else each for each in entries
        )

    RevocationFile(state_dir).change(without)
    if not done:
        raise ConfigurationError(f"{state_dir}: nothing revoked matches {name}")
    return tuple(done)


def now() -> str:
    """Return the time in UTC, to the microsecond: entries of one point are told apart by it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
