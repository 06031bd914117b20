"""Removal of versions, and the numbers of new ones.

`remove_version` renames `<root>/<name>/<version>/` to `<root>/.removed/<name>/<version>/`. Readers ignore
folders whose names begin with a dot. The number of a removed version is not used again, because clients,
metrics and revocations name versions by number.
"""

import errno
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from serving.errors import RepositoryError
from serving.files import sync
from serving.repository.repository import find_versions
from serving.repository.rollback import read_rollback

REMOVED_FOLDER = ".removed"
_REMOVED_NAME = re.compile(r"([1-9][0-9]{0,17})(-[0-9]+)?")
"""A version's number, and a suffix if a version of this number was removed before."""
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


def remove_version(root: Path, name: str, number: int) -> Path:
    """Move a version to the folder of removed versions, in one rename; return its new folder.

    Raises RepositoryError if the file system refuses.
    """
    source, parent = root / name / str(number), root / REMOVED_FOLDER / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        target = _move(source, parent)
        sync(parent)
        sync(source.parent)
    except OSError as error:
        raise RepositoryError(f"{source}: cannot be moved to {parent}: {error.strerror}") from error
    return target


def next_version(root: Path, name: str) -> int:
    """Return the number for a new version: one above the highest that exists, was removed or rolled back.

    A rollback names the highest version at its time, which may have been deleted since. A new version with
    this number would not serve.
    """
    rollback = read_rollback(root / name)
    used = (*find_versions(root).get(name, ()), *_removed_versions(root, name))
    return max((*used, rollback.highest if rollback else 0), default=0) + 1


def _move(source: Path, parent: Path) -> Path:
    """Rename a version's folder to the first free name."""
    target = parent / source.name
    for suffix in itertools.count(2):
        try:
            return source.rename(target)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        target = parent / f"{source.name}-{suffix}"
    raise AssertionError("unreachable")


def _removed_versions(root: Path, name: str) -> Iterator[int]:
    folder = root / REMOVED_FOLDER / name
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return
    except OSError as error:
        raise RepositoryError(f"{folder}: cannot be read: {error.strerror}") from error
    for removed in map(_REMOVED_NAME.fullmatch, names):
        if removed is not None:
            yield int(removed[1])
