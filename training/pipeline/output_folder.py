"""The output folder of a run, an attachment or a study. One process at a time may use it.

Two of its files are managed here:

    .lock       names the process that uses the folder, and is locked by that process; remains after a kill
    run-id      the id of the run; the manifest of the published version contains it
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
    """Create the folder if necessary, and lock it until the block ends.

    Raises RunError if another process has the lock. Also raises it if the folder has files but `resume` is
    false, or if it has none but `resume` is true. Files in counts_as_empty are ignored. A new folder that
    is still empty at the end is removed.
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
            f"output folder {folder}: in use by {_process_of(path)}: wait until it ends, "
            "or choose another --output"
        )
    with lock:
        try:
            was_killed = bool(lock.read())  # a process that ends normally removes the file
            lock.seek(0)
            lock.truncate()
            lock.write(f"{_this_process()}\n".encode())
            lock.flush()
            entries = _entries(folder, counts_as_empty)
            if entries and not resume:
                raise RunError(
                    f"output folder {folder}: expected an empty one, got {len(entries)} entries: "
                    "add --resume, or choose another --output"
                )
            if resume and not was_killed and not _entries(folder, ()):
                raise _nothing_to_resume(folder)
            yield
        finally:
            close_before_rename(lock)
            path.unlink(missing_ok=True)
            if is_new:
                with contextlib.suppress(OSError):  # it is not empty
                    folder.rmdir()


def run_id(folder: Path) -> str:
    """Return the run id of a folder; create it if necessary."""
    path = folder / ID_FILE
    if not path.is_file():
        with atomic_write(path) as file:
            file.write(f"{uuid.uuid4().hex}\n".encode())
    return path.read_text().strip()


def make_writable(folder: Path) -> None:
    """Create a folder if necessary; raise RunError if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"folder {folder}: cannot be created: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"folder {folder}: expected a writable folder, got a read-only one")


def check_writable(folder: Path) -> None:
    """Raise RunError if a folder cannot be created or written. An empty folder is removed again."""
    make_writable(folder)
    with contextlib.suppress(OSError):  # it is not empty
        folder.rmdir()


def _entries(folder: Path, counts_as_empty: Collection[str]) -> list[str]:
    """Return the names in a folder, without hidden ones: locks, and drafts of killed processes."""
    names = [entry.name for entry in folder.iterdir()]
    return [name for name in names if not name.startswith(".") and name not in counts_as_empty]


def _nothing_to_resume(folder: Path) -> RunError:
    return RunError(
        f"output folder {folder}: expected a run to resume, got an empty folder: "
        "omit --resume to begin, or choose another --output"
    )


def _process_of(lock: Path) -> str:
    with contextlib.suppress(FileNotFoundError):  # the process has just ended
        return lock.read_text().strip() or "another process"
    return "another process"


def _this_process() -> str:
    since = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
    return f"process {os.getpid()} on {platform.node()} since {since}"
