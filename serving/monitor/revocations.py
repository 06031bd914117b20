"""Which certificates were taken back, kept over restarts in a file of the operator's.

One JSON file in the folder that `--state-dir` names, replaced in one step. It is read again before
each change and at each rescan, so that a line that the operator took out stays out. Without a folder,
revocations last as long as the process. Knows nothing of why one is made.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import ConfigurationError, first_complaint
from serving.monitor.monitor import Revocation
from serving.whole_file import write_whole

if os.name == "posix":
    import fcntl

REVOCATIONS_FILE = "revocations.json"


class RevokedPoint(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: Annotated[int, Field(ge=1)]
    operating_point: str
    revoked: str
    """When, in UTC."""
    epsilon: float
    delta: float
    shadow_rows: int
    disagreements: int


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    revocations: tuple[RevokedPoint, ...] = ()


class Revocations:
    """The file, or what stands for it where there is none; any thread may use it."""

    def __init__(self, state_dir: Path | None) -> None:
        """Read what is there; raise ConfigurationError where that, or writing to it, is impossible."""
        self._path = None if state_dir is None else state_dir / REVOCATIONS_FILE
        self._lock = threading.Lock()
        self._points: tuple[RevokedPoint, ...] = ()
        self._unwritten: list[RevokedPoint] = []
        self._was_there = False
        if state_dir is not None and not (state_dir.is_dir() and os.access(state_dir, os.W_OK)):
            raise ConfigurationError(f"state folder {state_dir}: expected a folder that can be written to")
        self.refresh()

    def of(self, model: str, version: int) -> set[str]:
        """Name a version's revoked points, those included that are not yet written."""
        return {
            each.operating_point
            for each in (*self._points, *self._unwritten)
            if (each.model, each.version) == (model, version)
        }

    def note(self, model: str, version: int, revocation: Revocation) -> None:
        """Take note that a point was revoked, at once; `write` keeps it over restarts."""
        self._unwritten.append(
            RevokedPoint(
                model=model,
                version=version,
                operating_point=revocation.operating_point,
                revoked=datetime.now(UTC).isoformat(timespec="seconds"),
                epsilon=revocation.epsilon,
                delta=revocation.delta,
                shadow_rows=revocation.shadow_rows,
                disagreements=revocation.disagreements,
            )
        )

    def write(self) -> None:
        """Write down what is not yet; blocks. Raises OSError or ConfigurationError, and it holds still."""
        written = len(self._unwritten)
        if written:
            self._change(lambda points: (*points, *self._unwritten[:written]))
            del self._unwritten[:written]

    def refresh(self) -> None:
        """Read the file again; raise ConfigurationError where it is not what was written, or is gone."""
        with self._lock:
            self._points = self._read()

    def remove(self, model: str, version: int | None, operating_point: str | None) -> list[RevokedPoint]:
        """Take out what matches, None matching all; gives what was taken out."""
        removed: list[RevokedPoint] = []

        def without(points: tuple[RevokedPoint, ...]) -> tuple[RevokedPoint, ...]:
            removed.extend(
                each
                for each in points
                if each.model == model
                and version in {None, each.version}
                and operating_point in {None, each.operating_point}
            )
            return tuple(each for each in points if each not in removed)

        self._change(without)
        return removed

    def _change(self, change: Callable[[tuple[RevokedPoint, ...]], tuple[RevokedPoint, ...]]) -> None:
        with self._lock:
            if self._path is None:
                self._points = change(self._points)
                return
            with _alone(self._path):
                changed = change(self._read())
                write_whole(self._path, _File(revocations=changed).model_dump_json(indent=2) + "\n")
            self._points, self._was_there = changed, True

    def _read(self) -> tuple[RevokedPoint, ...]:
        if self._path is None:
            return self._points
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            if self._was_there:  # a volume that went away is no operator's word
                raise ConfigurationError(
                    f"{self._path}: expected the file that was there, got none"
                ) from error
            return ()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self._path}: cannot be read: {error}") from error
        try:
            points = _File.model_validate_json(text).revocations
        except ValidationError as error:
            raise ConfigurationError(f"{self._path}: {first_complaint(error)}") from error
        self._was_there = True
        return points


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from changing the file meanwhile: a server, and the operator's command."""
    with path.with_suffix(".lock").open("w") as lock:
        if os.name == "posix":
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
