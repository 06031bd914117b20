"""The user's rows: one array for each graph input, and optional labels.

All rows are checked before any work begins. Nothing is cast or reordered: the network would give wrong
answers on rows of another scale or axis order, without an error.

Shapes: `N` rows, `B` rows of a batch.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.datatypes import DTYPES
from serving.errors import shown
from serving.repository.manifest import TensorSpec
from serving.stages.runner import Arrays
from training.attach.rows.npz_arrays import read_arrays
from training.data.labels import LabelColumn, check_within
from training.data.splits import Labels
from training.errors import DatasetError

LABELS = "y"
ONLY_INPUT = "x"
"""Alternative name for the array of a graph's only input."""
_CHUNK_BYTES = 16 << 20
_LARGEST_LABEL = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Rows:
    """Checked rows, in the order of their file."""

    path: Path
    inputs: Arrays
    """One array [N, ...] per graph input, by the input's name; memory-mapped if not compressed."""
    truth_N: Labels | None
    first_equal_N: NDArray[np.int64]
    """For each row, the number of the first row with equal inputs: its own number if it is no repeat."""
    inputs_digest: str
    """SHA-256 over names, datatypes, shapes and bytes of the inputs."""
    digest: str
    """SHA-256 over the inputs and the labels."""

    def __len__(self) -> int:
        return len(self.first_equal_N)

    @property
    def distinct_N(self) -> NDArray[np.int64]:  # noqa: N802 - a shape suffix
        """Row numbers without repeats, ascending."""
        return np.flatnonzero(self.first_equal_N == np.arange(len(self)))

    @property
    def repeats(self) -> int:
        """Number of rows that equal an earlier row."""
        return len(self) - len(self.distinct_N)

    def batch(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Copy consecutive rows of every input into contiguous memory, as onnxruntime requires."""
        return {name: np.array(array[start:stop], order="C") for name, array in self.inputs.items()}


def read_rows(path: Path, inputs: Sequence[TensorSpec]) -> Rows:
    """Read an .npz file with an array for each input under its name, and optional labels `y`.

    The array of a graph's only input may be named `x`. Raises DatasetError for anything else.
    """
    arrays = read_arrays(path)
    key_of_input = _match(path, arrays, inputs)
    for spec in inputs:
        _check_array(path, key_of_input[spec.name], arrays[key_of_input[spec.name]], spec)
    array_of_input = {spec.name: arrays[key_of_input[spec.name]] for spec in inputs}
    _check_counts(path, {key_of_input[name]: len(array) for name, array in array_of_input.items()})
    for name, array in array_of_input.items():
        _check_finite(path, key_of_input[name], array)
    return make_rows(path, array_of_input, _labels(path, arrays, array_of_input))


def make_rows(path: Path, inputs: Arrays, truth_N: Labels | None) -> Rows:
    """Build rows from arrays that fit the graph's inputs; path names their source in messages."""
    row_digests = list(_row_digests(inputs))
    inputs_digest = _digest(inputs, row_digests)
    return Rows(
        path=path,
        inputs=inputs,
        truth_N=truth_N,
        first_equal_N=_first_equal(row_digests),
        inputs_digest=inputs_digest,
        digest=hashlib.sha256(f"{inputs_digest} {_digest_of_labels(truth_N)}".encode()).hexdigest(),
    )


def check_labels(rows: Rows, classes: int) -> None:
    """Raise DatasetError for the first label outside 0..classes-1."""
    if rows.truth_N is not None:
        column = LabelColumn(f"{rows.path}: {LABELS}", rows.truth_N, row_name=lambda row: f"row {row}")
        check_within(column, classes)


def _match(path: Path, arrays: Arrays, inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Map each input's name to the name of its array."""
    names = [spec.name for spec in inputs]
    if len(names) == 1 and names[0] not in arrays and ONLY_INPUT in arrays:
        keys = {names[0]: ONLY_INPUT}
    else:
        keys = {name: name for name in names}
    missing = [key for key in keys.values() if key not in arrays]
    unknown = [key for key in arrays if key not in {*keys.values(), LABELS}]
    if missing or unknown:
        wrong = " and ".join(
            f"{word} {', '.join(map(shown, wrong_keys))}"
            for word, wrong_keys in (("no", missing), ("unknown", unknown))
            if wrong_keys
        )
        alias = f" (or {ONLY_INPUT})" if len(names) == 1 else ""
        raise DatasetError(
            f"{path}: expected arrays {', '.join(names)}{alias} and optional labels {LABELS}, got {wrong}"
        )
    return keys


def _check_array(path: Path, key: str, array: NDArray[Any], spec: TensorSpec) -> None:
    expected = DTYPES[spec.datatype]
    if array.shape[1:] != spec.row_shape or array.ndim == 0:
        raise DatasetError(
            f"{path}: {key}: expected shape {['N', *spec.row_shape]}, got {list(array.shape)}".replace(
                "'", ""
            )
            + _shape_advice(array.shape, spec.row_shape)
        )
    if array.dtype != expected:
        raise DatasetError(
            f"{path}: {key}: expected {expected.name}, got {array.dtype}{_cast_advice(array.dtype, expected)}"
        )


def _shape_advice(got: tuple[int, ...], row_shape: tuple[int, ...]) -> str:
    """Return a hint on how to get the right shape, or an empty string."""
    axes = ", ".join(map(str, row_shape))
    if got == row_shape:
        return ": a single row also needs a first axis: array[None]"
    if len(row_shape) == 3 and got[1:] == (*row_shape[1:], row_shape[0]):
        return ": if its channels are last, array.transpose(0, 3, 1, 2) puts them first"
    if len(row_shape) == 3 and got[1:] == (row_shape[2], *row_shape[:2]):
        return ": if its channels are first, array.transpose(0, 2, 3, 1) puts them last"
    if len(got) == len(row_shape) + 1 and sorted(got[1:]) == sorted(row_shape):
        return ": if its axes are in another order, array.transpose reorders them"
    if len(got) and math.prod(got[1:]) == math.prod(row_shape):
        return f": if only an axis is missing, array.reshape(-1, {axes}) adds it"
    return ""


def _cast_advice(got: np.dtype[Any], expected: np.dtype[Any]) -> str:
    cast = f'array.astype("{expected.name}")'
    if got.kind in "biu" and expected.kind == "f":
        return f": scale it as in training, then {cast}"
    if got.kind == expected.kind or (got.kind in "iu" and expected.kind in "iu"):
        return f": if no value is lost, {cast}"
    return ""


def _check_counts(path: Path, count_of_key: Mapping[str, int]) -> None:
    first, expected = next(iter(count_of_key.items()))
    for key, count in count_of_key.items():
        if count != expected:
            raise DatasetError(f"{path}: {key}: expected {expected} rows, as {first} has, got {count}")
    if expected == 0:
        raise DatasetError(f"{path}: {first}: expected at least 1 row, got 0")


def _check_finite(path: Path, key: str, array: NDArray[Any]) -> None:
    if array.dtype.kind != "f":
        return
    for start, chunk in _chunks(array):
        is_finite_N = np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)
        if not is_finite_N.all():
            row = int(is_finite_N.argmin())
            value = chunk[row][~np.isfinite(chunk[row])].flat[0]
            raise DatasetError(f"{path}: {key}: row {start + row}: expected finite numbers, got {value}")


def _labels(path: Path, arrays: Arrays, inputs: Arrays) -> Labels | None:
    """Return the labels; None without labels, or if an input is named `y`."""
    if LABELS not in arrays or LABELS in inputs:
        return None
    array, rows = arrays[LABELS], len(next(iter(inputs.values())))
    if array.dtype.kind not in "iu" or array.shape != (rows,):
        raise DatasetError(
            f"{path}: {LABELS}: expected integer labels of shape [{rows}], one per row, "
            f"got {array.dtype} {list(array.shape)}"
        )
    if int(array.max()) > _LARGEST_LABEL:
        raise DatasetError(
            f"{path}: {LABELS}: row {int(array.argmax())}: expected a label below 2^63, got {array.max()}"
        )
    return array.astype(np.int64)


def _chunks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield an array in chunks, each with the number of its first row."""
    row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
    rows = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, len(array), rows):
        yield start, np.array(array[start : start + rows], order="C")


def _row_digests(inputs: Arrays) -> Iterator[bytes]:
    """Yield the SHA-256 of each row's bytes in all inputs."""
    for row_bytes in zip(*(_rows_as_bytes(array) for array in inputs.values()), strict=True):
        yield hashlib.sha256(b"".join(row_bytes)).digest()


def _rows_as_bytes(array: NDArray[Any]) -> Iterator[bytes]:
    for _, chunk in _chunks(array):
        for row in chunk:
            yield row.tobytes()


def _digest(inputs: Arrays, row_digests: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for name, array in inputs.items():
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
    for row_digest in row_digests:
        digest.update(row_digest)
    return digest.hexdigest()


def _digest_of_labels(truth_N: Labels | None) -> str:
    return "unlabelled" if truth_N is None else hashlib.sha256(truth_N.astype("<i8").tobytes()).hexdigest()


def _first_equal(row_digests: Sequence[bytes]) -> NDArray[np.int64]:
    first_of_digest: dict[bytes, int] = {}
    return np.array([first_of_digest.setdefault(digest, row) for row, digest in enumerate(row_digests)])
