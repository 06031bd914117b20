"""The pooled features of every level, computed once for all rows and kept on disk.

The network runs once a row; heads then train on files that are mapped, one a level. The files grow row
by row, and `cache.json` says for which model and rows, and how many rows are safe on disk. So a run that
was interrupted goes on from there, and a finished cache is read again.

Shapes: `N` rows, `B` rows of a batch, `P` pooled features of a level, `K` classes.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from serving.errors import first_line
from serving.files import atomic_write
from serving.stages.devices import CPU, FATAL_LOGS, Device
from training.errors import AttachError, NotFinite, RunError

LOGITS = "logits"
STATE_FILE = "cache.json"
BATCH_ROWS = 32
"""Large enough for a CPU, and small enough for the first maps of a network of large images."""
SAFE_SECONDS = 10.0
"""How much work an interruption may cost."""
_VALUE = np.dtype("<f4")

Told = Callable[[int], object]
"""Is told how much was done since it was last called, such as the `update` of a tqdm bar."""


class RowSource(Protocol):
    """Rows of a network's inputs, read piece by piece."""

    @property
    def path(self) -> Path:
        """The file that they came from."""

    @property
    def inputs_digest(self) -> str:
        """What tells them from all others."""

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return some consecutive rows of every input."""


@dataclass(frozen=True)
class CachedFeatures:
    """What the network gives for each row, mapped from disk."""

    key: str
    """Identifies the model and the rows that these features are of."""
    levels: tuple[NDArray[np.float32], ...]
    """Pooled features of each level, [N, P]."""
    logits_NK: NDArray[np.float32]
    """The network's own."""


def expected_bytes(model: onnx.ModelProto, rows: int) -> int:
    """Return what the cache of so many rows takes on disk."""
    return sum(len(_header(rows, width)) + _bytes(rows, width) for width in _widths(model).values())


def cache(
    model: onnx.ModelProto,
    rows: RowSource,
    folder: Path,
    progress: Told | None = None,
    *,
    device: Device = CPU,
) -> CachedFeatures:
    """Run a model that returns pooled features and logits over all rows; progress is told rows.

    The folder is made. What it holds of the same model, rows and device is used, anything else replaced.
    Raises AttachError, NotFinite or RunError in one line.
    """
    told = progress or (lambda _rows: None)
    widths, key = _widths(model), _key(model, rows, device)
    folder.mkdir(parents=True, exist_ok=True)
    done = _rows_done(folder, key, widths, len(rows))
    told(done)
    if done < len(rows):
        _check_space(folder, expected_bytes(model, len(rows)), widths)
        _fill(_open_session(model, device), rows, folder, key, widths, done, told)
    arrays = {name: np.load(_file_of(folder, name), mmap_mode="r") for name in widths}
    logits_NK = arrays.pop(LOGITS)
    _check_classes(rows, logits_NK)
    return CachedFeatures(key, tuple(arrays.values()), logits_NK)


def _widths(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many values a row has in each output."""
    widths = {}
    for output in model.graph.output:
        _batch, width = output.type.tensor_type.shape.dim
        widths[output.name] = width.dim_value
    return widths


def _key(model: onnx.ModelProto, rows: RowSource, device: Device) -> str:
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    digest.update(f"{rows.inputs_digest} {device.name}".encode())
    return digest.hexdigest()


def _rows_done(folder: Path, key: str, widths: Mapping[str, int], rows: int) -> int:
    """Return how many rows the folder holds of this model and these rows; 0 where its files do not fit."""
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        is_same, done = state["key"] == key, int(state["rows"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0
    fits = all(_holds(_file_of(folder, name), rows, width, done) for name, width in widths.items())
    return done if is_same and fits else 0


def _holds(path: Path, rows: int, width: int, done: int) -> bool:
    header = _header(rows, width)
    if not path.is_file() or path.stat().st_size < len(header) + _bytes(done, width):
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _fill(
    session: onnxruntime.InferenceSession,
    rows: RowSource,
    folder: Path,
    key: str,
    widths: Mapping[str, int],
    done: int,
    told: Told,
) -> None:
    """Append the rows that are missing to the files, and note now and then how many are safe."""
    if done == 0:
        (folder / STATE_FILE).unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(_open_to_append(_file_of(folder, name), len(rows), width, done))
            for name, width in widths.items()
        }
        safe_since = time.monotonic()
        for start, outputs in _outputs(session, rows, list(files), done):
            for file, values in zip(files.values(), outputs, strict=True):
                file.write(np.ascontiguousarray(values, _VALUE).data)
            done = start + len(outputs[0])
            if done == len(rows) or time.monotonic() - safe_since >= SAFE_SECONDS:
                _make_safe(folder, files, key, done)
                safe_since = time.monotonic()
            told(done - start)


def _outputs(
    session: onnxruntime.InferenceSession, rows: RowSource, names: list[str], done: int
) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """Yield the first row of each batch, and what the model returns for it, checked."""
    for start in range(done, len(rows), BATCH_ROWS):
        stop = min(start + BATCH_ROWS, len(rows))
        try:
            outputs = session.run(names, rows.batch(start, stop))
        except Exception as error:  # onnxruntime raises a class of its own for each status
            raise AttachError(
                f"{rows.path}: rows {start} to {stop - 1}: the network cannot run: {first_line(error)}"
            ) from error
        for name, values in zip(names, outputs, strict=True):
            _check_finite(rows, name, values, start)
        yield start, outputs


@contextlib.contextmanager
def _open_to_append(path: Path, rows: int, width: int, done: int) -> Iterator[IO[bytes]]:
    """Open a NumPy file of so many rows behind those that are done, to write over what follows them."""
    header = _header(rows, width)
    with path.open("r+b" if done else "wb") as file:
        if not done:
            file.write(header)
        file.seek(len(header) + _bytes(done, width))
        yield file


def _make_safe(folder: Path, files: Mapping[str, IO[bytes]], key: str, done: int) -> None:
    for file in files.values():
        file.flush()
        os.fsync(file.fileno())
    with atomic_write(folder / STATE_FILE) as state:
        state.write(json.dumps({"key": key, "rows": done}).encode())


def _file_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _header(rows: int, width: int) -> bytes:
    file = io.BytesIO()
    shape = {"descr": _VALUE.str, "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, shape)
    return file.getvalue()


def _bytes(rows: int, width: int) -> int:
    return rows * width * _VALUE.itemsize


def _check_space(folder: Path, needed: int, widths: Mapping[str, int]) -> None:
    """Raise RunError where the disk cannot hold the cache, counting what the cache's files take now."""
    files = [path for path in (_file_of(folder, name) for name in widths) if path.is_file()]
    there = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in files)
    if there < needed:
        raise RunError(
            f"{folder}: expected {_mebibytes(needed)} free for the features of all rows, "
            f"got {_mebibytes(there)}"
        )


def _mebibytes(count: int) -> str:
    return f"{math.ceil(count / 2**20):,} MiB"


def _check_finite(rows: RowSource, name: str, values_BP: NDArray[np.float32], start: int) -> None:
    spoiled_B = ~np.isfinite(values_BP).all(axis=1)
    if spoiled_B.any():
        row = start + int(spoiled_B.argmax())
        raise NotFinite(f"{rows.path}: row {row}: expected finite {name} of the network, got NaN or infinity")


def _check_classes(rows: RowSource, logits_NK: NDArray[np.float32]) -> None:
    """Raise AttachError where the network says the same of every row: there is nothing to learn."""
    first = int(logits_NK[0].argmax())
    if (logits_NK.argmax(axis=1) == first).all():
        raise AttachError(
            f"{rows.path}: expected rows of at least 2 of the network's classes, "
            f"got class {first} for all {len(rows):,}"
        )


def _open_session(model: onnx.ModelProto, device: Device) -> onnxruntime.InferenceSession:
    """Open a session on all cores, or on the GPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CPU.default_workers()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = FATAL_LOGS  # what it raises says the same
    providers: list[Any] = device.providers()
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception as error:  # onnxruntime raises a class of its own for each status
        raise AttachError(
            f"the network with pooled levels: onnxruntime cannot load it: {first_line(error)}"
        ) from error
    session.disable_fallback()
    return session
