"""Pooled features of every level, computed once for all rows and cached on disk.

The network runs once per row. Heads then train on memory-mapped files, one per level. An interrupted run
continues after the last saved row, and a finished cache is used again.

Shapes: `N` rows, `B` rows of a batch, `P` pooled features of a level, `K` classes.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from serving.stages.devices import CPU, Device
from training.attach.heads.feature_files import FeatureFiles, cache_bytes
from training.attach.network.sessions import open_session, run
from training.attach.progress import Advance
from training.errors import AttachError, NotFinite

LOGITS = "logits"
BATCH_ROWS = 32
"""Enough rows to keep a CPU busy; more would need much memory for the first feature maps."""
SAVE_SECONDS = 10.0
"""Time between saves: the work that an interruption can lose."""


class RowSource(Protocol):
    """Rows of a network's inputs that can be read in batches."""

    @property
    def path(self) -> Path:
        """The file of the rows."""

    @property
    def inputs_digest(self) -> str:
        """A text that identifies the rows."""

    def __len__(self) -> int: ...

    def batch(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return consecutive rows of every input."""


@dataclass(frozen=True)
class CachedFeatures:
    """The network's features and logits for each row, memory-mapped."""

    key: str
    """Identifies model, rows and device."""
    levels: tuple[NDArray[np.float32], ...]
    """Pooled features of each level, [N, P]."""
    logits_NK: NDArray[np.float32]


def expected_bytes(model: onnx.ModelProto, rows: int) -> int:
    """Return the size of the cache on disk."""
    return cache_bytes(_widths(model), rows)


def cache_features(
    model: onnx.ModelProto,
    rows: RowSource,
    folder: Path,
    progress: Advance | None = None,
    *,
    device: Device = CPU,
) -> CachedFeatures:
    """Run a model over all rows and cache its pooled features and logits; progress counts rows.

    Creates the folder. A cache of the same model, rows and device is continued. Any other cache is replaced.
    Raises AttachError, NotFinite or RunError.
    """
    advance = progress or (lambda _rows: None)
    files = FeatureFiles(folder, _key(model, rows, device), len(rows), _widths(model))
    folder.mkdir(parents=True, exist_ok=True)
    done = files.rows_done
    advance(done)
    if done < len(rows):
        files.check_space()
        _run_rows(_open(model, device), rows, files, done, advance)
    arrays = files.load()
    logits_NK = arrays.pop(LOGITS)
    _check_classes(rows, logits_NK)
    return CachedFeatures(files.key, tuple(arrays.values()), logits_NK)


def _widths(model: onnx.ModelProto) -> dict[str, int]:
    """Return the number of values per row of each output."""
    widths = {}
    for output in model.graph.output:
        _batch, width = output.type.tensor_type.shape.dim
        widths[output.name] = width.dim_value
    return widths


def _key(model: onnx.ModelProto, rows: RowSource, device: Device) -> str:
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    digest.update(f"{rows.inputs_digest} {device.name}".encode())
    return digest.hexdigest()


def _open(model: onnx.ModelProto, device: Device) -> onnxruntime.InferenceSession:
    try:
        return open_session(model, threads=CPU.default_workers(), device=device)
    except AttachError as error:
        raise AttachError(f"the network with pooled features: {error}") from error


def _run_rows(
    session: onnxruntime.InferenceSession, rows: RowSource, files: FeatureFiles, done: int, advance: Advance
) -> None:
    """Run the remaining rows and append their outputs, saving every SAVE_SECONDS."""
    with files.open_to_append(done) as writer:
        last_save = time.monotonic()
        for start, outputs in _outputs(session, rows, list(files.widths), done):
            writer.append(outputs)
            done = start + len(outputs[0])
            if done == len(rows) or time.monotonic() - last_save >= SAVE_SECONDS:
                writer.save(done)
                last_save = time.monotonic()
            advance(done - start)


def _outputs(
    session: onnxruntime.InferenceSession, rows: RowSource, names: Sequence[str], done: int
) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """Yield the first row of each batch, and the model's outputs for the batch."""
    for start in range(done, len(rows), BATCH_ROWS):
        stop = min(start + BATCH_ROWS, len(rows))
        try:
            outputs = run(session, names, rows.batch(start, stop))
        except AttachError as error:
            raise AttachError(f"{rows.path}: rows {start} to {stop - 1}: {error}") from error
        for name, values in zip(names, outputs, strict=True):
            _check_finite(rows, name, values, start)
        yield start, outputs


def _check_finite(rows: RowSource, name: str, values_BP: NDArray[np.float32], start: int) -> None:
    is_finite_B = np.isfinite(values_BP).all(axis=1)
    if not is_finite_B.all():
        row = start + int(is_finite_B.argmin())
        raise NotFinite(f"{rows.path}: row {row}: expected finite {name} of the network, got NaN or infinity")


def _check_classes(rows: RowSource, logits_NK: NDArray[np.float32]) -> None:
    """Raise AttachError if the network predicts one class for all rows: heads would learn nothing."""
    first = int(logits_NK[0].argmax())
    if (logits_NK.argmax(axis=1) == first).all():
        raise AttachError(
            f"{rows.path}: expected rows of at least 2 of the network's classes, "
            f"got class {first} for all {len(rows):,}"
        )
