"""The bytes of a dataset's file, read whole, plain or through gzip.

Given as a bytearray, so that an array which views it can be written to, as torch wants it.
Knows nothing of what the bytes mean.
"""

import zlib
from pathlib import Path

from training.errors import DatasetError

GZIP_WINDOW = 31
"""zlib's `wbits` for the widest window inside gzip's header and checksum."""
CHUNK_BYTES = 65_536


def read_content(path: Path) -> bytearray:
    """Read a file; raise DatasetError where it cannot be."""
    try:
        content = bytearray(path.stat().st_size)
        with path.open("rb") as file:
            del content[file.readinto(content) :]
    except OSError as error:
        raise DatasetError(f"{path}: expected a readable file, got: {error.strerror}") from error
    return content


def read_gzip_content(path: Path) -> bytearray:
    """Read and decompress a file; raise DatasetError with how far it could be."""
    compressed = memoryview(read_content(path))
    content = bytearray()
    stream = zlib.decompressobj(GZIP_WINDOW)
    try:
        for start in range(0, len(compressed), CHUNK_BYTES):
            content += stream.decompress(compressed[start : start + CHUNK_BYTES])
    except zlib.error as error:
        raise _damaged(path, content, str(error)) from error
    if not stream.eof:
        raise _damaged(path, content, "its end is missing")
    if stream.unused_data:
        raise _damaged(path, content, "more bytes follow its end")
    return content


def _damaged(path: Path, content: bytearray, complaint: str) -> DatasetError:
    return DatasetError(
        f"{path}: byte {len(content)} uncompressed, or soon after: expected one whole gzip stream, "
        f"got: {complaint}"
    )
