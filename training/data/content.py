"""Reads the bytes of a dataset's file, plain or gzipped.

Returns a bytearray, because torch needs arrays with a writable buffer.
"""

import zlib
from pathlib import Path

from training.errors import DatasetError

GZIP_WINDOW = 31
"""zlib's `wbits` for a gzip stream with the largest window."""
CHUNK_BYTES = 65_536


def read_content(path: Path) -> bytearray:
    """Read a file; raise DatasetError if it cannot be read."""
    try:
        content = bytearray(path.stat().st_size)
        with path.open("rb") as file:
            del content[file.readinto(content) :]
    except OSError as error:
        raise DatasetError(f"{path}: expected a readable file, got: {error.strerror}") from error
    return content


def read_gzip_content(path: Path) -> bytearray:
    """Read and decompress a file; raise DatasetError with the byte at which decompression failed."""
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


def _damaged(path: Path, content: bytearray, problem: str) -> DatasetError:
    return DatasetError(
        f"{path}: byte {len(content)} uncompressed, or soon after: expected one complete gzip stream, "
        f"got: {problem}"
    )
