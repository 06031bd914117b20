"""A lock on a file: held by one process, and let go by the kernel when that process ends, however it ends.

Whoever holds the lock may remove or rename the file; whoever waits for it then opens the next one. Needs a
file system with flock. Where there is none, on Windows, nothing is locked.
"""

import contextlib
import os
from pathlib import Path
from typing import IO

if os.name == "posix":
    import fcntl


def lock_file(path: Path, *, wait: bool = False) -> IO[bytes] | None:
    """Open a file, made where there is none, and hold its lock until it is closed.

    Returns None where another process holds it, unless told to wait for that one.
    """
    while True:
        with contextlib.ExitStack() as stack:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            file = stack.enter_context(os.fdopen(descriptor, "r+b"))
            if os.name == "posix":
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return None
            if _is_at(path, file):
                stack.pop_all()
                return file


def before_it_moves(file: IO[bytes]) -> None:
    """Close a locked file that will be renamed or removed, where that takes a closed one: on Windows."""
    if os.name != "posix":
        file.close()


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether the path still names the file: its last holder may have removed or renamed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
