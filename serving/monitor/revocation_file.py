"""The file of revocations in the state folder: its contents, and how it is read and changed.

It is one JSON file in the folder of `--state-dir`, and is replaced atomically. Entries are only added or
marked as reinstated. All servers and commands on the folder share a lock for changes. If the path is
anything but a regular file, such as a pipe or a link, it is refused without blocking.
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
from serving.files import atomic_write

if os.name == "posix":
    import fcntl

REVOCATIONS_FILE = "revocations.json"
LOCK_FILE = "revocations.lock"
LOCK_SECONDS = 5.0
"""Longest wait for another process that holds the lock."""
_POLL_SECONDS = 0.02
_LARGEST_BYTES = 16 * 2**20


class RevokedPoint(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: Annotated[int, Field(ge=1)] | None = None
    """None: every version, including later ones."""
    operating_point: str | None = None
    """None: every point with early exits."""
    revoked: str
    """UTC time of the revocation; unique among the entries of a point."""
    by: RevokedBy = "monitor"
    epsilon: float | None = None
    delta: float | None = None
    shadow_rows: int | None = None
    disagreements: int | None = None
    reinstated: str | None = None
    """UTC time of the reinstatement; None while the revocation is in force."""

    @property
    def key(self) -> tuple[str, int | None, str | None, str]:
        """The unique key of the entry."""
        return self.model, self.version, self.operating_point, self.revoked

    @property
    def scope(self) -> str:
        """The scope as on the command line: MODEL[/VERSION[/POINT]]."""
        parts = (self.model, self.version, self.operating_point)
        return "/".join(str(part) for part in parts if part is not None)

    def covers(self, model: str, version: int | None, operating_point: str | None) -> bool:
        """Return whether the entry revokes all of a scope; None stands for all versions or all points."""
        return (
            self.model == model
            and self.version in {None, version}
            and self.operating_point in {None, operating_point}
        )

    def lies_within(self, model: str, version: int | None, operating_point: str | None) -> bool:
        """Return whether a scope contains everything that the entry revokes; None stands for all."""
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
    """The file of a state folder. Several processes may use it."""

    def __init__(self, folder: Path) -> None:
        """Check the folder; raise ConfigurationError if it is not a writable folder."""
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise ConfigurationError(f"state folder {folder}: expected a folder that can be written to")
        self._path = folder / REVOCATIONS_FILE
        self._lock_path = folder / LOCK_FILE

    def read(self) -> Entries:
        """Return the entries; none if there is no file. Raise ConfigurationError if it is not valid."""
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
        """Apply a function to the entries, write the result, and return it.

        Waits at most LOCK_SECONDS for another process that changes the file. Raises ConfigurationError
        if the file cannot be locked, read or written.
        """
        with self._locked():
            before = self.read()
            after = change(before)
            if after != before:
                content = _Contents(revocations=after).model_dump_json(indent=2).encode() + b"\n"
                try:
                    with atomic_write(self._path, mode=0o600) as file:
                        file.write(content)
                except OSError as error:
                    raise ConfigurationError(f"{self._path}: cannot be written: {error}") from error
            return after

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
    """Open a regular file. Links are not followed, and pipes do not block."""
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
