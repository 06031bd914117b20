"""Which certificates were taken back, kept over restarts in a file of the operator's.

One JSON file in the folder that `--state-dir` names, replaced in one step. It is read again before
each change and at each rescan, so that a line that the operator took out stays out. Without a folder,
revocations last as long as the process. Knows nothing of why one is made.
"""

import os
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.engine.monitor import Revocation
from serving.errors import ConfigurationError, first_complaint

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
        self._unwritten: tuple[RevokedPoint, ...] = ()
        """Revoked while the file could not be written: they hold until it can be, or the process ends."""
        if state_dir is not None and not (state_dir.is_dir() and os.access(state_dir, os.W_OK)):
            raise ConfigurationError(f"state folder {state_dir}: expected a folder that can be written to")
        self.refresh()

    def refresh(self) -> None:
        """Read the file again; raise ConfigurationError where it is not what was written."""
        if self._path is None:
            return
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            self._points = ()
            return
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self._path}: cannot be read: {error}") from error
        try:
            self._points = _File.model_validate_json(text).revocations
        except ValidationError as error:
            raise ConfigurationError(f"{self._path}: {first_complaint(error)}") from error

    def of(self, model: str, version: int) -> set[str]:
        """Name a version's revoked points."""
        return {
            each.operating_point
            for each in (*self._points, *self._unwritten)
            if (each.model, each.version) == (model, version)
        }

    def add(self, model: str, version: int, revocation: Revocation) -> None:
        """Write down that a point was revoked; raise OSError where the file can't be written."""
        point = RevokedPoint(
            model=model,
            version=version,
            operating_point=revocation.operating_point,
            revoked=datetime.now(UTC).isoformat(timespec="seconds"),
            epsilon=revocation.epsilon,
            delta=revocation.delta,
            shadow_rows=revocation.shadow_rows,
            disagreements=revocation.disagreements,
        )
        self._unwritten = (*self._unwritten, point)
        self._change(lambda points: (*points, *self._unwritten))
        self._unwritten = ()

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
            self.refresh()
            changed = change(self._points)
            if self._path is not None:
                _replace(self._path, _File(revocations=changed).model_dump_json(indent=2) + "\n")
            self._points = changed


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
