"""What a full disk does to this process: files cannot grow."""

import contextlib
import resource
from collections.abc import Iterator

LARGEST_FILE_BYTES = 8192


@contextlib.contextmanager
def no_room_for_files() -> Iterator[None]:
    """Let this process write no file beyond a few KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
