"""The user's rows: an array for each input of the graph, and labels where there are any.

All rows are checked before any work begins. Nothing is cast or reordered: a network answers wrongly
on rows of another scale or axis order, and says nothing of it. Knows nothing of ONNX or of splits.

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
from training.attach.npz_arrays import read_arrays
from training.data.labels import LabelColumn, check_within
from training.data.splits import Labels
from training.errors import DatasetError

LABELS = "y"
ONLY_INPUT = "x"
"""What the array of a graph's only input may also be called."""
_CHUNK_BYTES = 16 << 20
_LARGEST_LABEL = np.iinfo(np.int64).max

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Rows:
    """Checked rows, in the order of their file."""

    path: Path
    inputs: Arrays
    """By the graph's own names, each [N, ...]; mapped from the file where that is possible."""
    truth_N: Labels | None
    first_equal_N: NDArray[np.int64]
    """For each row the first one that equals it in every input: its own number unless it is a repeat."""
    inputs_digest: str
    """SHA-256 over names, datatypes, shapes and bytes of the inputs."""
    digest: str
    """SHA-256 over the inputs and the labels."""

    def __len__(self) -> int:
        return len(self.first_equal_N)

    @property
    def distinct_N(self) -> NDArray[np.int64]:  # noqa: N802 - a shape suffix
        """Row numbers without the repeats, ascending."""
        return np.flatnonzero(self.first_equal_N == np.arange(len(self)))

    @property
    def repeats(self) -> int:
        """How many rows equal an earlier one."""
        return len(self) - len(self.distinct_N)

    def batch(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Copy some consecutive rows of every input into memory, as onnxruntime takes them."""
        return {name: np.array(array[start:stop], order="C") for name, array in self.inputs.items()}


def read_rows(path: Path, inputs: Sequence[TensorSpec]) -> Rows:
    """Read an .npz file that holds `y`, or no labels, and each input under its name.

    The array of a graph's only input may be called `x`. Raises DatasetError for anything else.
    """
    arrays = read_arrays(path)
    key_of_input = _match(path, arrays, inputs)
    for spec in inputs:
        _check_array(path, key_of_input[spec.name], arrays[key_of_input[spec.name]], spec)
    found = {spec.name: arrays[key_of_input[spec.name]] for spec in inputs}
    _check_counts(path, {key_of_input[name]: len(array) for name, array in found.items()})
    for name, array in found.items():
        _check_finite(path, key_of_input[name], array)
    return make_rows(path, found, _labels(path, arrays, found))


def make_rows(path: Path, inputs: Arrays, truth_N: Labels | None) -> Rows:
    """Build rows from arrays that are known to fit the graph's inputs; path names them in messages."""
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
    """Raise DatasetError with the first row whose label is not one of 0..classes-1."""
    if rows.truth_N is not None:
        column = LabelColumn(f"{rows.path}: {LABELS}", rows.truth_N, row_name=lambda row: f"row {row}")
        check_within(column, classes)


def _match(path: Path, arrays: Arrays, inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return the array's name for each input's name."""
    names = [spec.name for spec in inputs]
    if len(names) == 1 and names[0] not in arrays and ONLY_INPUT in arrays:
        keys = {names[0]: ONLY_INPUT}
    else:
        keys = {name: name for name in names}
    missing = [key for key in keys.values() if key not in arrays]
    unknown = [key for key in arrays if key not in {*keys.values(), LABELS}]
    if missing or unknown:
        wrong = " and ".join(
            f"{word} {', '.join(map(shown, some))}"
            for word, some in (("no", missing), ("unknown", unknown))
            if some
        )
        alias = f" (or {ONLY_INPUT})" if len(names) == 1 else ""
        raise DatasetError(
            f"{path}: expected arrays {', '.join(names)}{alias}, and at most labels {LABELS}, got {wrong}"
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
    """Return how to get the right shape, where that can be told, to end a message with."""
    axes = ", ".join(map(str, row_shape))
    if got == row_shape:
        return ": one row alone needs a first axis too: array[None]"
    if len(row_shape) == 3 and got[1:] == (*row_shape[1:], row_shape[0]):
        return ": are its channels last? array.transpose(0, 3, 1, 2) puts them first"
    if len(row_shape) == 3 and got[1:] == (row_shape[2], *row_shape[:2]):
        return ": are its channels first? array.transpose(0, 2, 3, 1) puts them last"
    if len(got) == len(row_shape) + 1 and sorted(got[1:]) == sorted(row_shape):
        return ": are its axes in another order? array.transpose changes it"
    if len(got) and math.prod(got[1:]) == math.prod(row_shape):
        return f": if only an axis is missing, array.reshape(-1, {axes}) adds it"
    return ""


def _cast_advice(got: np.dtype[Any], expected: np.dtype[Any]) -> str:
    cast = f'array.astype("{expected.name}")'
    if got.kind in "biu" and expected.kind == "f":
        return f": scale it as the network was trained, then {cast}"
    if got.kind == expected.kind or (got.kind in "iu" and expected.kind in "iu"):
        return f": if no value is lost, {cast}"
    return ""


def _check_counts(path: Path, count_of_key: Mapping[str, int]) -> None:
    (first, count), *others = count_of_key.items()
    for key, other in others:
        if other != count:
            raise DatasetError(f"{path}: {key}: expected {count} rows as {first} has, got {other}")
    if count == 0:
        raise DatasetError(f"{path}: {first}: expected at least 1 row, got 0")


def _check_finite(path: Path, key: str, array: NDArray[Any]) -> None:
    if array.dtype.kind != "f":
        return
    for start, chunk in _chunks(array):
        spoiled_N = ~np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)
        if spoiled_N.any():
            row = int(spoiled_N.argmax())
            value = chunk[row][~np.isfinite(chunk[row])].flat[0]
            raise DatasetError(f"{path}: {key}: row {start + row}: expected finite numbers, got {value}")


def _labels(path: Path, arrays: Arrays, inputs: Arrays) -> Labels | None:
    """Return the labels; None where there are none, or where an input has their name."""
    if LABELS not in arrays or LABELS in inputs:
        return None
    array, rows = arrays[LABELS], len(next(iter(inputs.values())))
    if array.dtype.kind not in "iu" or array.shape != (rows,):
        raise DatasetError(
            f"{path}: {LABELS}: expected integer labels of shape [{rows}], one a row, "
            f"got {array.dtype} {list(array.shape)}"
        )
    if int(array.max()) > _LARGEST_LABEL:
        raise DatasetError(
            f"{path}: {LABELS}: row {int(array.argmax())}: expected a label below 2^63, got {array.max()}"
        )
    return array.astype(np.int64)


def _chunks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Copy an array into memory piece by piece; yields each piece's first row too."""
    row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
    rows = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, len(array), rows):
        yield start, np.array(array[start : start + rows], order="C")


def _row_digests(inputs: Arrays) -> Iterator[bytes]:
    """Hash each row's bytes in all inputs; every input has rows of a fixed size."""
    for row_of_each in zip(*(_each_row(array) for array in inputs.values()), strict=True):
        digest = hashlib.sha256()
        for row in row_of_each:
            digest.update(row)
        yield digest.digest()


def _each_row(array: NDArray[Any]) -> Iterator[bytes]:
    for _, chunk in _chunks(array):
        for row in chunk:
            yield row.tobytes()


def _digest(inputs: Arrays, row_digests: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for name, array in inputs.items():
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
    for each in row_digests:
        digest.update(each)
    return digest.hexdigest()


def _digest_of_labels(truth_N: Labels | None) -> str:
    return "unlabelled" if truth_N is None else hashlib.sha256(truth_N.astype("<i8").tobytes()).hexdigest()


def _first_equal(row_digests: Sequence[bytes]) -> NDArray[np.int64]:
    first_of_digest: dict[bytes, int] = {}
    return np.array([first_of_digest.setdefault(each, row) for row, each in enumerate(row_digests)])
