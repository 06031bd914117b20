"""A file that appears whole or not at all: written beside, synced to disk, renamed, and its folder synced.

Its draft has one name, and its writer holds a lock on it: of two processes the second waits for the first,
and what a killed one left is written over.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from training.files.file_lock import before_it_moves, lock_file


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file to write that takes the place of `path` when the block ends, unless it raises.

    An OSError of a write, such as on a full disk, names the path.
    """
    try:
        with _draft_of(path) as file:
            yield file
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync(path.parent)


@contextlib.contextmanager
def _draft_of(path: Path) -> Iterator[IO[bytes]]:
    draft = path.with_name(f".{path.name}.draft")
    file = lock_file(draft, wait=True)
    assert file is not None, "who waits for a lock gets it"
    with file:
        try:
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(file.fileno())
            before_it_moves(file)
            draft.replace(path)
        except BaseException:
            before_it_moves(file)
            draft.unlink(missing_ok=True)
            raise


def sync(path: Path) -> None:
    """Have a file or folder on the disk itself before going on."""
    if os.name != "posix":
        return  # only POSIX syncs through what was opened to read, and opens folders at all
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
