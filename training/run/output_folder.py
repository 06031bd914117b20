"""An output folder, of a run, an attaching or a study: held by one process at a time, and known by an id.

    .lock       who works here; locked as long as that process lives, removed when it ends by itself
    run-id      made when the folder is begun; what it publishes names it

Knows nothing of what else the folder holds.
"""

import contextlib
import os
import platform
import uuid
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from serving.files import atomic_write, close_before_rename, lock_file
from training.errors import RunError

LOCK_FILE, ID_FILE = ".lock", "run-id"


@contextlib.contextmanager
def hold(folder: Path, *, resume: bool, counts_as_empty: Collection[str] = ()) -> Iterator[None]:
    """Hold a folder, made where there is none, until the block ends.

    Raises RunError where another process holds it, where it holds something and is not to be resumed, and
    where it holds nothing to resume. counts_as_empty are files that a start leaves before any work. A folder
    in which nothing was kept is removed again, if it was made here.
    """
    is_new = not folder.exists()
    if is_new and resume:
        raise _nothing_to_resume(folder)
    if not is_new and not folder.is_dir():
        raise RunError(f"output folder {folder}: expected a folder, got a file")
    make_writable(folder)
    path = folder / LOCK_FILE
    lock = lock_file(path)
    if lock is None:
        raise RunError(
            f"output folder {folder}: in use by {_holder(path)}: wait for its end, or give another --output"
        )
    with lock:
        try:
            was_killed = bool(lock.read())  # who ends otherwise removes it
            lock.seek(0)
            lock.truncate()
            lock.write(f"{_this_process()}\n".encode())
            lock.flush()
            entries = _entries(folder, counts_as_empty)
            if entries and not resume:
                raise RunError(
                    f"output folder {folder}: expected an empty one, got {len(entries)} entries: "
                    "go on with what it holds by --resume, or give another --output"
                )
            if resume and not was_killed and not _entries(folder, ()):
                raise _nothing_to_resume(folder)
            yield
        finally:
            close_before_rename(lock)
            path.unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):  # it holds something
                    folder.rmdir()


def run_id(folder: Path) -> str:
    """Return the id of what a folder holds, made where it has none."""
    path = folder / ID_FILE
    if not path.is_file():
        with atomic_write(path) as file:
            file.write(f"{uuid.uuid4().hex}\n".encode())
    return path.read_text().strip()


def make_writable(folder: Path) -> None:
    """Make a folder where there is none; raise RunError, before any work, where it can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"folder {folder}: cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"folder {folder}: expected one that can be written to, got one that cannot")


def check_writable(folder: Path) -> None:
    """Raise RunError, before any work, where a folder can't be made or written; an empty one goes again."""
    make_writable(folder)
    with contextlib.suppress(OSError):  # it holds something
        folder.rmdir()


def _entries(folder: Path, counts_as_empty: Collection[str]) -> list[str]:
    """Name what lies in a folder; a name with a dot in front is a lock, or a draft that a kill left."""
    names = [entry.name for entry in folder.iterdir()]
    return [name for name in names if not name.startswith(".") and name not in counts_as_empty]


def _nothing_to_resume(folder: Path) -> RunError:
    return RunError(
        f"output folder {folder}: expected one to go on with, got nothing in it: "
        "leave out --resume to begin, or give another --output"
    )


def _holder(lock: Path) -> str:
    with contextlib.suppress(FileNotFoundError):  # it has just ended
        return lock.read_text().strip() or "another process"
    return "another process"


def _this_process() -> str:
    since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    return f"process {os.getpid()} on {platform.node()} since {since}"
