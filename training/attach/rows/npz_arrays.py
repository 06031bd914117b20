"""Reads the arrays of an .npz file, memory-mapped where they are not compressed.

`np.load` reads each array into memory. An array that `np.savez` stored without compression is contiguous in
the file, so `np.memmap` can map it. Each array is first read once to verify its checksum. Pickled objects are
refused.
"""

import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import MAX_COMPLAINT_CHARACTERS, shown
from training.errors import DatasetError

_LOCAL_HEADER_BYTES, _LENGTHS_OFFSET = 30, 26  # of the header that precedes each member of a ZIP file
_CHUNK_BYTES = 1 << 20
_SUFFIX = ".npy"
_OBJECTS = "Python objects; save plain arrays"


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an .npz file by name; raise DatasetError if one is damaged or holds objects."""
    if not path.is_file():
        raise DatasetError(f"{path}: expected an .npz file, got no such file")
    with _one_line_errors(f"{path}: expected a complete .npz file"), zipfile.ZipFile(path) as archive:
        return {_name_of(member): _read_member(path, archive, member) for member in archive.infolist()}


def _name_of(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(_SUFFIX)


def _read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with _one_line_errors(f"{path}: {shown(_name_of(member))}: expected a complete, plain array"):
        with archive.open(member) as file:
            if member.compress_type != zipfile.ZIP_STORED:
                array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
                if _read_to_end(file):
                    raise ValueError(f"more bytes than an array {list(array.shape)} of {array.dtype} needs")
                return array
            _read_to_end(file)
        return _map(path, member)


def _read_to_end(file: IO[bytes]) -> int:
    """Read the rest of a member, so that zipfile verifies its checksum; return the number of bytes."""
    count = 0
    while chunk := file.read(_CHUNK_BYTES):
        count += len(chunk)
    return count


def _map(path: Path, member: zipfile.ZipInfo) -> NDArray[Any]:
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name_bytes, extra_bytes = struct.unpack_from("<HH", file.read(_LOCAL_HEADER_BYTES), _LENGTHS_OFFSET)
        file.seek(name_bytes + extra_bytes, 1)
        start = file.tell()
        shape, is_fortran, dtype = _read_header(file)
        if dtype.hasobject:
            raise ValueError(_OBJECTS)
        offset = file.tell()
    expected, got = math.prod(shape) * dtype.itemsize, member.file_size - (offset - start)
    if expected != got:
        raise ValueError(f"{got} bytes for {list(shape)} of {dtype}")
    if expected == 0:  # memmap refuses an empty range
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(path, dtype, "r", offset, shape, order="F" if is_fortran else "C"))


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of NumPy's format")
    return readers[version](file)


@contextmanager
def _one_line_errors(expected: str) -> Iterator[None]:
    """Turn every exception into a DatasetError of one line: a damaged file can raise almost any class."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        complaint = shown(" ".join(str(error).split()) or type(error).__name__, MAX_COMPLAINT_CHARACTERS)
        if "allow_pickle" in complaint:  # NumPy's advice to allow pickles
            complaint = _OBJECTS
        raise DatasetError(f"{expected}, got: {complaint}") from error
