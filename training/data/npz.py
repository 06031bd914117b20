"""Reads images and labels from an .npz file. Pickled objects are refused.

Training takes `x_train y_train x_test y_test`, or `x y` without official test rows. Retargeting a published
version takes `x y`. Errors say how to convert arrays that do not fit.

Shapes: `N` rows, `C H W` image, `K` classes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import MAX_COMPLAINT_CHARACTERS, shown
from training.data.labels import MAX_CLASSES, LabelColumn, check_within, count_classes
from training.data.splits import Images, Labels, RawDataset
from training.errors import DatasetError

SPLIT_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
LABELLED_ARRAYS = ("x", "y")
IMAGE_CHANNELS = (1, 3)
"""Channel counts of grey and colour images."""


def load_npz(file: Path) -> RawDataset:
    """Load uint8 images [N, H, W] or [N, C, H, W], and integer labels 0..K-1."""
    arrays = _read_npz(file, SPLIT_ARRAYS, LABELLED_ARRAYS)
    has_test_rows = "x_test" in arrays
    x, y = SPLIT_ARRAYS[:2] if has_test_rows else LABELLED_ARRAYS
    images_NCHW, truth_N = _images(file, x, arrays), _truth(file, y, x, arrays)
    classes = count_classes(_label_column(file, y, truth_N))
    labels = tuple(str(number) for number in range(classes))
    if not has_test_rows:
        return RawDataset("npz", labels, images_NCHW, truth_N, official_test=None, name_row=_name_row_of_x)
    test_NCHW, test_N = _images(file, "x_test", arrays), _truth(file, "y_test", "x_test", arrays)
    if images_NCHW.shape[1:] != test_NCHW.shape[1:]:
        raise DatasetError(
            f"{file}: x_test: expected images of shape {list(images_NCHW.shape[1:])} as in x_train, "
            f"got {list(test_NCHW.shape[1:])}"
        )
    check_within(_label_column(file, "y_test", test_N), classes)
    return RawDataset("npz", labels, images_NCHW, truth_N, (test_NCHW, test_N), name_row=_name_row)


def load_labelled_npz(path: Path, labels: Sequence[str], image_shape: Sequence[int]) -> RawDataset:
    """Load images of the model's shape [C, H, W] and the numbers of their labels."""
    arrays = _read_npz(path, LABELLED_ARRAYS)
    images_NCHW, truth_N = _images(path, "x", arrays), _truth(path, "y", "x", arrays)
    if images_NCHW.shape[1:] != tuple(image_shape):
        raise DatasetError(
            f"{path}: x: expected images of shape {list(image_shape)} as the model takes, "
            f"got {list(images_NCHW.shape[1:])}"
        )
    check_within(_label_column(path, "y", truth_N), len(labels))
    return RawDataset("npz", tuple(labels), images_NCHW, truth_N, official_test=None, name_row=_name_row_of_x)


def _read_npz(path: Path, *choices: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of the first choice that the file has."""
    expected = ", or ".join(", ".join(names) for names in choices)
    if not path.is_file():
        raise DatasetError(f"{path.absolute()}: expected an .npz file with {expected}, got no such file")
    with (
        _dataset_error(f"{path}: expected a complete .npz file of plain arrays", "another file format"),
        path.open("rb") as file,
    ):
        archive = np.load(file, allow_pickle=False)
        names_found = list(archive) if isinstance(archive, np.lib.npyio.NpzFile) else []
        for names in choices:
            if set(names) <= set(names_found):
                return {name: _read_member(path, name, archive) for name in names}
        got = ", ".join(names_found) or "no archive of arrays"
        raise DatasetError(f"{path}: expected arrays {expected}, got {got}")


def _read_member(path: Path, name: str, archive: Mapping[str, object]) -> NDArray[np.generic]:
    pickled = "Python objects; save plain arrays"
    with _dataset_error(f"{path}: {name}: expected a complete, plain array", pickled):
        array = archive[name]
    if not isinstance(array, np.ndarray):
        raise DatasetError(f"{path}: {name}: expected an array in NumPy's format, got other bytes")
    return array


@contextmanager
def _dataset_error(expected: str, pickled: str) -> Iterator[None]:
    """Turn any exception of NumPy or zipfile into a DatasetError of one line.

    pickled: what replaces NumPy's advice to allow pickles.
    """
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        problem = shown(" ".join(str(error).split()) or type(error).__name__, MAX_COMPLAINT_CHARACTERS)
        if "allow_pickle" in problem:
            problem = pickled
        raise DatasetError(f"{expected}, got: {problem}") from error


def _images(path: Path, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> Images:
    array = arrays[name]
    hint = _conversion_hint(name, array)
    if array.dtype != np.uint8 or array.ndim not in {3, 4} or 0 in array.shape or hint:
        raise DatasetError(
            f"{path}: {name}: expected uint8 images [N, H, W] or [N, C, H, W], "
            f"got {array.dtype} {list(array.shape)}{hint}"
        )
    return np.ascontiguousarray(array[:, np.newaxis] if array.ndim == 3 else array, dtype=np.uint8)


def _conversion_hint(name: str, array: NDArray[np.generic]) -> str:
    """Return how to convert an array to images [N, H, W] or [N, C, H, W]; empty if nothing is known."""
    if array.size == 0:
        return ""
    if array.dtype != np.uint8:
        return _datatype_hint(name, array)
    if array.ndim == 4 and array.shape[3] in IMAGE_CHANNELS and array.shape[1] not in IMAGE_CHANNELS:
        return f"; this looks like channels last; use {name}.transpose(0, 3, 1, 2)"
    if array.ndim == 2 and math.isqrt(array.shape[1]) ** 2 == array.shape[1]:
        side = math.isqrt(array.shape[1])
        return f"; if the images are square, use {name}.reshape(-1, {side}, {side})"
    return ""


def _datatype_hint(name: str, array: NDArray[np.generic]) -> str:
    if array.dtype.kind not in "biuf":
        return ""
    low, high = float(array.min()), float(array.max())
    if low >= 0 and high <= 1:
        return f'; for values 0 to 1 use ({name} * 255).round().astype("uint8")'
    if low >= 0 and high <= 255:
        return f'; for values 0 to 255 use {name}.round().astype("uint8")'
    return f"; values are {low:g} to {high:g}: scale them to 0 to 255 first"


def _truth(path: Path, name: str, images: str, arrays: Mapping[str, NDArray[np.generic]]) -> Labels:
    array, rows = arrays[name], len(arrays[images])
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (rows,):
        raise DatasetError(
            f"{path}: {name}: expected integer labels of shape [{rows}], one for each row of {images}, "
            f"got {array.dtype} {list(array.shape)}"
        )
    truth_N = array.astype(np.int64)
    wrapped_N = (truth_N < 0) & np.issubdtype(array.dtype, np.unsignedinteger)
    if wrapped_N.any():
        row = int(wrapped_N.argmax())
        raise DatasetError(
            f"{path}: {name}: row {row}: expected a label 0..{MAX_CLASSES - 1}, got {array[row]}"
        )
    return truth_N


def _label_column(path: Path, name: str, truth_N: Labels) -> LabelColumn:
    return LabelColumn(f"{path}: {name}", truth_N, row_name=lambda row: f"row {row}")


def _name_row(part: str, row: int) -> str:
    return f"row {row} of x_{part}"


def _name_row_of_x(_part: str, row: int) -> str:
    return f"row {row} of x"
