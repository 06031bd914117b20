"""Simulates a full disk with a limit on file sizes."""

import contextlib
import resource
from collections.abc import Iterator

LARGEST_FILE_BYTES = 8192


@contextlib.contextmanager
def no_room_for_files() -> Iterator[None]:
    """Limit files that this process writes to LARGEST_FILE_BYTES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
