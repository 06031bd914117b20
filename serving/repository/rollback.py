"""The rollback of a model: an older version serves until a newer one is published.

`<root>/<name>/rollback.json` with `{"version": 1, "from": 3}` makes version 1 the default while the highest
version is at most 3. So the next publication ends the rollback. `models/README.md` specifies the file.
"""

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import RepositoryError, first_complaint
from serving.files import atomic_write, sync

ROLLBACK_FILE = "rollback.json"
VersionNumber = Annotated[int, Field(ge=1)]


class Rollback(BaseModel):
    """The content of `rollback.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: VersionNumber
    """The version that serves."""
    highest: VersionNumber = Field(alias="from")
    """The highest version when the rollback was written. A higher one ends the rollback."""


def read_rollback(model_folder: Path) -> Rollback | None:
    """Read a model's rollback; return None without the file, and raise RepositoryError if it is invalid."""
    path = model_folder / ROLLBACK_FILE
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            raise RepositoryError(f"{path}: expected a regular file, got something else")
        return Rollback.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RepositoryError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise RepositoryError(f"{path}: {first_complaint(error)}") from error


def write_rollback(model_folder: Path, rollback: Rollback) -> None:
    """Write a model's rollback atomically; raise RepositoryError if that fails."""
    path = model_folder / ROLLBACK_FILE
    try:
        with atomic_write(path) as file:
            file.write(rollback.model_dump_json(by_alias=True).encode() + b"\n")
    except OSError as error:
        raise RepositoryError(f"{path}: cannot be written: {error.strerror}") from error


def remove_rollback(model_folder: Path) -> None:
    """Remove a model's rollback; raise RepositoryError if that fails."""
    path = model_folder / ROLLBACK_FILE
    try:
        path.unlink(missing_ok=True)
        sync(model_folder)
    except OSError as error:
        raise RepositoryError(f"{path}: cannot be removed: {error.strerror}") from error


def remove_ended_rollback(model_folder: Path, versions: Sequence[int]) -> None:
    """Remove a rollback that a newer version has ended, so that removing this version does not revive it.

    versions: those of the model, ascending.
    """
    rollback = read_rollback(model_folder)
    if rollback is not None and versions[-1] > rollback.highest:
        remove_rollback(model_folder)


def rollback_in_force(model_folder: Path, versions: Sequence[int]) -> Rollback | None:
    """Return the rollback if no newer version ended it. versions: those of the model, ascending.

    Raises RepositoryError if the file is invalid, or if the version that it names does not exist.
    """
    rollback = read_rollback(model_folder)
    if rollback is None or versions[-1] > rollback.highest:
        return None
    if rollback.version not in versions:
        raise RepositoryError(
            f"{model_folder / ROLLBACK_FILE}: version: expected one of {list(versions)}, "
            f"got {rollback.version}"
        )
    return rollback


def default_version(model_folder: Path, versions: Sequence[int]) -> int:
    """Return the version that answers requests without a version: the highest, unless it was rolled back.

    versions: those of the model, ascending. Raises RepositoryError as `rollback_in_force` does.
    """
    rollback = rollback_in_force(model_folder, versions)
    return versions[-1] if rollback is None else rollback.version


def rollback_reason(model_folder: Path, versions: Sequence[int]) -> str | None:
    """Return why a rollback keeps the highest version from serving; None if it does not."""
    try:
        default = default_version(model_folder, versions)
    except RepositoryError as error:
        return str(error)
    return None if default == versions[-1] else f"rolled back to version {default}"
