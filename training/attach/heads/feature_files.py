"""The files of the feature cache, which grow row by row.

    cache.json      the key of model and rows, and how many rows are on disk
    <output>.npy    FP32 [rows, width], for each output of the model

Rows beyond the count in `cache.json` may be incomplete; the next run overwrites them.
"""

import contextlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from serving.files import atomic_write
from training.errors import RunError

STATE_FILE = "cache.json"
_VALUE = np.dtype("<f4")


class FeatureWriter:
    """Appends rows to the open files of a cache."""

    def __init__(self, state: Path, key: str, files: Sequence[IO[bytes]]) -> None:
        self._state = state
        self._key = key
        self._files = files

    def append(self, outputs: Sequence[NDArray[np.float32]]) -> None:
        """Append rows of every output, in the order of the files."""
        for file, values in zip(self._files, outputs, strict=True):
            file.write(np.ascontiguousarray(values, _VALUE).data)

    def save(self, done: int) -> None:
        """Flush the files to disk, then write the number of finished rows."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        with atomic_write(self._state) as state:
            state.write(json.dumps({"key": self._key, "rows": done}).encode())


@dataclass(frozen=True)
class FeatureFiles:
    """The cache files of one model and its rows."""

    folder: Path
    key: str
    """Identifies model, rows and device."""
    rows: int
    widths: Mapping[str, int]
    """Values per row of each output, by the output's name."""

    @property
    def rows_done(self) -> int:
        """Number of rows on disk; 0 if the files belong to another key or are damaged."""
        try:
            state = json.loads(self._state.read_text())
            key, done = state["key"], int(state["rows"])
        except (OSError, ValueError, TypeError, KeyError):
            return 0
        return done if key == self.key and all(self._has_rows(name, done) for name in self.widths) else 0

    def check_space(self) -> None:
        """Raise RunError if the disk is too small; space of existing cache files counts as free."""
        existing = [path for path in map(self._path, self.widths) if path.is_file()]
        available = shutil.disk_usage(self.folder).free + sum(path.stat().st_size for path in existing)
        needed = cache_bytes(self.widths, self.rows)
        if available < needed:
            raise RunError(
                f"{self.folder}: expected {_mebibytes(needed)} free for the features of all rows, "
                f"got {_mebibytes(available)}"
            )

    @contextlib.contextmanager
    def open_to_append(self, done: int) -> Iterator[FeatureWriter]:
        """Open every file at the end of its finished rows; without finished rows, create new files."""
        if done == 0:
            self._state.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(self._open(name, done)) for name in self.widths]
            yield FeatureWriter(self._state, self.key, files)

    def load(self) -> dict[str, NDArray[np.float32]]:
        """Map the arrays of all outputs, by name."""
        return {name: np.load(self._path(name), mmap_mode="r") for name in self.widths}

    @property
    def _state(self) -> Path:
        return self.folder / STATE_FILE

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _has_rows(self, name: str, done: int) -> bool:
        path, width = self._path(name), self.widths[name]
        header = _header(self.rows, width)
        if not path.is_file() or path.stat().st_size < len(header) + _value_bytes(done, width):
            return False
        with path.open("rb") as file:
            return file.read(len(header)) == header

    @contextlib.contextmanager
    def _open(self, name: str, done: int) -> Iterator[IO[bytes]]:
        header = _header(self.rows, self.widths[name])
        with self._path(name).open("r+b" if done else "wb") as file:
            if not done:
                file.write(header)
            file.seek(len(header) + _value_bytes(done, self.widths[name]))
            yield file


def cache_bytes(widths: Mapping[str, int], rows: int) -> int:
    """Return the size of the cache on disk, without `cache.json`."""
    return sum(len(_header(rows, width)) + _value_bytes(rows, width) for width in widths.values())


def _header(rows: int, width: int) -> bytes:
    file = io.BytesIO()
    shape = {"descr": _VALUE.str, "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, shape)
    return file.getvalue()


def _value_bytes(rows: int, width: int) -> int:
    return rows * width * _VALUE.itemsize


def _mebibytes(count: int) -> str:
    return f"{math.ceil(count / 2**20):,} MiB"
