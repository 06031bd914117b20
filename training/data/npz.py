"""Reads images and labels from an .npz file. Never unpickles.

Training takes `x_train y_train x_test y_test`. Retargeting a published version takes `x y`.

Shapes: `N` rows, `C H W` image, `K` classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import MAX_COMPLAINT_CHARACTERS, shown
from training.data.labels import MAX_CLASSES, LabelColumn, check_within, count_classes
from training.data.splits import Images, Labels, RawDataset
from training.errors import DatasetError

NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
LABELLED_ARRAYS = ("x", "y")


def load_npz(file: Path) -> RawDataset:
    """Load uint8 images [N, H, W] or [N, C, H, W], and integer labels 0..K-1."""
    arrays = _read_npz(file, NPZ_ARRAYS)
    train_NCHW, train_N = _images(file, "x_train", arrays), _truth(file, "y_train", "x_train", arrays)
    test_NCHW, test_N = _images(file, "x_test", arrays), _truth(file, "y_test", "x_test", arrays)
    if train_NCHW.shape[1:] != test_NCHW.shape[1:]:
        raise DatasetError(
            f"{file}: x_test: expected images of shape {list(train_NCHW.shape[1:])} as in x_train, "
            f"got {list(test_NCHW.shape[1:])}"
        )
    classes = count_classes(_label_column(file, "y_train", train_N))
    check_within(_label_column(file, "y_test", test_N), classes)
    labels = tuple(str(number) for number in range(classes))
    return RawDataset(
        "npz", labels, train_NCHW, train_N, official_test=(test_NCHW, test_N), name_row=_name_row
    )


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


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise DatasetError(f"{path}: expected an .npz file with {', '.join(names)}, got no such file")
    with _dataset_error(f"{path}: expected a whole .npz file of plain arrays"), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        names_found = list(archive) if isinstance(archive, np.lib.npyio.NpzFile) else []
        if not set(names) <= set(names_found):
            got = ", ".join(names_found) or "no archive of arrays"
            raise DatasetError(f"{path}: expected arrays {', '.join(names)}, got {got}")
        return {name: _read_member(path, name, archive) for name in names}


def _read_member(path: Path, name: str, archive: Mapping[str, object]) -> NDArray[np.generic]:
    with _dataset_error(f"{path}: {name}: expected a whole, plain array"):
        array = archive[name]
    if not isinstance(array, np.ndarray):
        raise DatasetError(f"{path}: {name}: expected an array in NumPy's format, got other bytes")
    return array


@contextmanager
def _dataset_error(expected: str) -> Iterator[None]:
    """Turn any exception of NumPy or zipfile into a DatasetError of one line."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        problem = shown(" ".join(str(error).split()) or type(error).__name__, MAX_COMPLAINT_CHARACTERS)
        raise DatasetError(f"{expected}, got: {problem}") from error


def _images(path: Path, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> Images:
    array = arrays[name]
    if array.ndim == 3:
        array = array[:, np.newaxis]
    if array.dtype != np.uint8 or array.ndim != 4 or 0 in array.shape:
        raise DatasetError(
            f"{path}: {name}: expected uint8 images [N, H, W] or [N, C, H, W], "
            f"got {array.dtype} {list(arrays[name].shape)}"
        )
    return np.ascontiguousarray(array, dtype=np.uint8)


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
