"""The state folder's file of revocations: what it holds, and how it is read and changed.

One JSON file in the folder that `--state-dir` names, replaced in one step. An entry is only ever added,
or marked as reinstated; a change is made under a lock that all servers and commands on the folder share.
The files are opened so that whatever lies there instead (a pipe, a link) is refused and never waited for.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import ConfigurationError, first_complaint
from serving.exits.points import RevokedBy
from serving.whole_file import write_whole

if os.name == "posix":
    import fcntl

REVOCATIONS_FILE = "revocations.json"
LOCK_FILE = "revocations.lock"
LOCK_SECONDS = 5.0
"""How long to wait for another process that holds the lock."""
_POLL_SECONDS = 0.02
_LARGEST_BYTES = 16 * 2**20


class RevokedPoint(BaseModel):
    """An entry of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: Annotated[int, Field(ge=1)] | None = None
    """None: every version, also those published later."""
    operating_point: str | None = None
    """None: every point that lets rows leave early."""
    revoked: str
    """When, in UTC. No two entries of a point have the same."""
    by: RevokedBy = "monitor"
    epsilon: float | None = None
    delta: float | None = None
    shadow_rows: int | None = None
    disagreements: int | None = None
    reinstated: str | None = None
    """When, in UTC; None while it is in force."""

    @property
    def key(self) -> tuple[str, int | None, str | None, str]:
        """What tells it from all other entries."""
        return self.model, self.version, self.operating_point, self.revoked

    @property
    def scope(self) -> str:
        """What it revokes, as commands write it."""
        parts = (self.model, self.version, self.operating_point)
        return "/".join(str(part) for part in parts if part is not None)

    def covers(self, model: str, version: int | None, operating_point: str | None) -> bool:
        """Whether it revokes a point; with None, whether it revokes every version or every point."""
        return (
            self.model == model
            and self.version in {None, version}
            and self.operating_point in {None, operating_point}
        )

    def lies_within(self, model: str, version: int | None, operating_point: str | None) -> bool:
        """Whether all that it revokes belongs to this scope, in which None stands for all."""
        return (
            self.model == model
            and version in {None, self.version}
            and operating_point in {None, self.operating_point}
        )


Entries = tuple[RevokedPoint, ...]


class _Contents(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    revocations: Entries = ()


class RevocationFile:
    """The file in a state folder; several processes may use it."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; raise ConfigurationError where it cannot be written to."""
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise ConfigurationError(f"state folder {folder}: expected a folder that can be written to")
        self._path = folder / REVOCATIONS_FILE
        self._lock_path = folder / LOCK_FILE

    def read(self) -> Entries:
        """Return its entries, none where there is no file; raise ConfigurationError where it is not one."""
        try:
            with _regular_file(self._path, os.O_RDONLY) as descriptor:
                text = _read_all(descriptor).decode()
        except FileNotFoundError:
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self._path}: cannot be read: {error}") from error
        try:
            return _Contents.model_validate_json(text).revocations
        except ValidationError as error:
            raise ConfigurationError(f"{self._path}: {first_complaint(error)}") from error

    def change(self, change: Callable[[Entries], Entries]) -> Entries:
        """Replace the entries by what is made of them, and return that; raise ConfigurationError.

        Waits at most LOCK_SECONDS for another process that changes them.
        """
        with self._locked():
            before = self.read()
            after = change(before)
            if after != before:
                self._remove_drafts()
                try:
                    write_whole(self._path, _Contents(revocations=after).model_dump_json(indent=2) + "\n")
                except OSError as error:
                    raise ConfigurationError(f"{self._path}: cannot be written: {error}") from error
            return after

    def _remove_drafts(self) -> None:
        """Remove what writers left that were killed; who holds the lock is the only one that writes."""
        for draft in self._path.parent.glob(f".{self._path.name}-*"):
            draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            opened = _regular_file(self._lock_path, os.O_RDWR | os.O_CREAT)
            with opened as descriptor:
                self._await_lock(descriptor)
                yield
        except OSError as error:
            raise ConfigurationError(f"{self._lock_path}: cannot be opened: {error}") from error

    def _await_lock(self, descriptor: int) -> None:
        ends = time.monotonic() + LOCK_SECONDS
        while os.name == "posix":
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise ConfigurationError(
                        f"{self._lock_path}: another process has held it for {LOCK_SECONDS:g} seconds"
                    ) from None
                time.sleep(_POLL_SECONDS)
            else:
                return


@contextlib.contextmanager
def _regular_file(path: Path, flags: int) -> Iterator[int]:
    """Open a regular file and nothing else: no link is followed, no pipe is waited for."""
    if path.is_symlink():
        raise ConfigurationError(f"{path}: expected a regular file, got a symbolic link")
    descriptor = os.open(
        path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | os.O_CLOEXEC, 0o600
    )
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigurationError(f"{path}: expected a regular file, got something else")
        yield descriptor
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read(_LARGEST_BYTES)
