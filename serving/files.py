"""Atomic writes and lock files.

An atomic write goes to `.NAME.draft` in the same folder. The draft is synced to disk and renamed, and the
folder is synced. The writer locks the draft, so a second process waits for the first. The draft of a killed
process is overwritten.

Locks need a file system with flock. The kernel releases a lock when its process ends. Windows has no locks.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if os.name == "posix":
    import fcntl

DEFAULT_MODE = 0o666
"""Permissions of a new file, before the umask."""


@contextlib.contextmanager
def atomic_write(path: Path, *, mode: int = DEFAULT_MODE) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` when the block ends. If the block raises, `path` is unchanged.

    An OSError of a write, such as on a full disk, names the path.
    """
    try:
        with _draft_of(path, mode) as file:
            yield file
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync(path.parent)


@contextlib.contextmanager
def _draft_of(path: Path, mode: int) -> Iterator[IO[bytes]]:
    draft = path.with_name(f".{path.name}.draft")
    file = lock_file(draft, wait=True, mode=mode)
    assert file is not None, "lock_file returned without waiting for the lock"
    with file:
        try:
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(file.fileno())
            close_before_rename(file)
            draft.replace(path)
        except BaseException:
            close_before_rename(file)
            draft.unlink(missing_ok=True)
            raise


def lock_file(path: Path, *, wait: bool = False, mode: int = DEFAULT_MODE) -> IO[bytes] | None:
    """Open or create a file and lock it until it is closed. The holder may rename or remove it.

    If another process holds the lock, wait for it if `wait` is true, else return None. A symbolic link is
    refused with OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        with contextlib.ExitStack() as stack:
            descriptor = os.open(path, flags, mode)
            file = stack.enter_context(os.fdopen(descriptor, "r+b"))
            if os.name == "posix":
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return None
            if _is_at(path, file):
                stack.pop_all()
                return file


def close_before_rename(file: IO[bytes]) -> None:
    """Close a locked file on Windows, which renames and removes closed files only."""
    if os.name != "posix":
        file.close()


def sync(path: Path) -> None:
    """Flush a file or folder to disk with fsync; do nothing on Windows, which cannot open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Return whether the path still names the file. The previous holder may have renamed or removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
