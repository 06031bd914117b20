"""The revocations of operating points, which survive restarts.

A revocation is in force until an operator marks its entry in the file as reinstated. An entry that is
missing from the file is written again. So a replaced, emptied or removed file reinstates nothing.

One thread reads and writes the file at once after a new revocation or a request to refresh. Once a minute it
reads the changes of other processes. Without a state folder, revocations last until the process ends.
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

REFRESH_SECONDS = 60.0
"""Interval at which the file is read for changes by other processes."""
RETRY_SECONDS = 5.0
"""Interval between attempts to write after a failure."""


class Revocations:
    """The revocations in force, synchronised with the file of a state folder."""

    def __init__(self, state_dir: Path | None) -> None:
        """Read the file; raise ConfigurationError if it is not readable or the folder not writable."""
        self._file = None if state_dir is None else RevocationFile(state_dir)
        self._lock = threading.Lock()
        self._in_force: dict[object, RevokedPoint] = {}
        """Entries in force, by key. Each is in the file or will be written to it."""
        self._written: set[object] = set()
        """Keys of the entries that the file held when it was last read or written."""
        self._due = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._last_error = ""
        if self._file is not None:
            self._apply(self._file.read())

    def start(self, on_change: Callable[[], None]) -> None:
        """Start the thread; it calls on_change after each synchronisation with the file."""
        if self._file is not None:
            work = (self._file, on_change)
            self._thread = threading.Thread(target=self._run, args=work, name="revocations", daemon=True)
            self._thread.start()

    def add(self, model: str, version: int, revocation: Revocation) -> None:
        """Add a revocation by the monitor. It is in force at once; the thread writes it soon."""
        entry = RevokedPoint(model=model, version=version, revoked=now(), **vars(revocation))
        with self._lock:
            self._in_force[entry.key] = entry
        self._due.set()

    def refresh(self) -> None:
        """Make the thread read the file soon; do not wait for it."""
        self._due.set()

    def revoked_by(self, model: str, version: int, operating_point: str) -> RevokedBy | None:
        """Return who revoked a point; None if it is not revoked."""
        with self._lock:
            entries = [
                entry for entry in self._in_force.values() if entry.covers(model, version, operating_point)
            ]
        return entries[0].by if entries else None

    def unwritten(self) -> list[str]:
        """Return the scopes of revocations that are not in the file yet; empty without a folder."""
        if self._file is None:
            return []
        with self._lock:
            return [entry.scope for key, entry in self._in_force.items() if key not in self._written]

    def close(self, seconds: float) -> None:
        """Try once more to write, and stop the thread; wait at most `seconds`."""
        self._closing = True
        self._due.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, file: RevocationFile, on_change: Callable[[], None]) -> None:
        while True:
            is_last = self._closing
            try:
                self._synchronise(file)
                on_change()
                self._last_error = ""
            except ConfigurationError as error:
                self._log_error(str(error))
            except Exception as error:  # a bug of ours: revocations stay in force in this process
                _LOG.error("revocations not synchronised", exc_info=error)
            if is_last:
                return
            self._due.wait(RETRY_SECONDS if self.unwritten() else REFRESH_SECONDS)
            self._due.clear()

    def _synchronise(self, file: RevocationFile) -> None:
        """Write missing entries to the file, and apply the entries that it holds."""
        entries = file.read()
        if self._missing_from(entries):
            entries = file.change(lambda entries: (*entries, *self._missing_from(entries)))
        self._apply(entries)

    def _missing_from(self, entries: Entries) -> Entries:
        keys = {entry.key for entry in entries}
        with self._lock:
            return tuple(entry for key, entry in self._in_force.items() if key not in keys)

    def _apply(self, entries: Entries) -> None:
        with self._lock:
            self._written = {entry.key for entry in entries}
            for entry in entries:
                if entry.reinstated is None:
                    self._in_force[entry.key] = entry
                else:
                    self._in_force.pop(entry.key, None)

    def _log_error(self, error: str) -> None:
        """Log that the file cannot be read or written. A repeated message is logged only once."""
        if error != self._last_error:
            _LOG.error("state folder unusable", error=error)
        self._last_error = error


def revoke(state_dir: Path, model: str, version: int | None, operating_point: str | None) -> RevokedPoint:
    """Revoke a scope by an operator's command; return the new entry, or an existing one."""
    new = RevokedPoint(
        model=model, version=version, operating_point=operating_point, revoked=now(), by="operator"
    )

    def add_new(entries: Entries) -> Entries:
        return entries if any(map(is_same, entries)) else (*entries, new)

    def is_same(entry: RevokedPoint) -> bool:
        return (entry.scope, entry.by, entry.reinstated) == (new.scope, "operator", None)

    return next(filter(is_same, RevocationFile(state_dir).change(add_new)))


def reinstate(state_dir: Path, model: str, version: int | None, operating_point: str | None) -> Entries:
    """Reinstate all that is revoked within a scope, by an operator's command; return those entries.

    Raises ConfigurationError if there is none, or if an entry with a wider scope covers this one.
    """
    scope = (model, version, operating_point)
    name = "/".join(str(part) for part in scope if part is not None)
    reinstated: list[RevokedPoint] = []

    def mark_reinstated(entries: Entries) -> Entries:
        in_force = [entry for entry in entries if entry.reinstated is None]
        reinstated.extend(entry for entry in in_force if entry.lies_within(*scope))
        wider = [entry for entry in in_force if entry.covers(*scope) and not entry.lies_within(*scope)]
        if wider:
            raise ConfigurationError(
                f"{name} is revoked as part of {wider[0].scope}: reinstate {wider[0].scope}"
            )
        return tuple(
            entry.model_copy(update={"reinstated": now()}) if entry in reinstated else entry
            for entry in entries
        )

    RevocationFile(state_dir).change(mark_reinstated)
    if not reinstated:
        raise ConfigurationError(f"{state_dir}: nothing revoked matches {name}")
    return tuple(reinstated)


def now() -> str:
    """Return the UTC time with microseconds, which distinguish entries of one point."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
