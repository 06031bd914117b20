"""The user's own arrays in one .npz file: `x_train y_train x_test y_test`. Never unpickles.

Shapes: `N` rows, `C H W` image, `K` classes.
"""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.labels import LabelColumn, check_within, count_classes
from training.data.splits import Images, Labels, Source
from training.errors import DatasetError

NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(path: Path) -> Source:
    """Load uint8 images [N, H, W] or [N, C, H, W], and integer labels 0..K-1."""
    arrays = _read_npz(path)
    train_NCHW, train_N = _images(path, "x_train", arrays), _truth(path, "train", arrays)
    test_NCHW, test_N = _images(path, "x_test", arrays), _truth(path, "test", arrays)
    if train_NCHW.shape[1:] != test_NCHW.shape[1:]:
        raise DatasetError(
            f"{path}: x_test: expected images of shape {list(train_NCHW.shape[1:])} as in x_train, "
            f"got {list(test_NCHW.shape[1:])}"
        )
    classes = count_classes(_label_column(path, "train", train_N))
    check_within(_label_column(path, "test", test_N), classes)
    labels = tuple(str(number) for number in range(classes))
    return Source("npz", labels, train_NCHW, train_N, official_test=(test_NCHW, test_N))


def _read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise DatasetError(f"{path}: expected an .npz file with {', '.join(NPZ_ARRAYS)}, got no such file")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            found = list(archive) if isinstance(archive, np.lib.npyio.NpzFile) else []
            if not set(NPZ_ARRAYS) <= set(found):
                raise DatasetError(
                    f"{path}: expected arrays {', '.join(NPZ_ARRAYS)}, "
                    f"got {', '.join(found) or 'no archive of arrays'}"
                )
            return {name: archive[name] for name in NPZ_ARRAYS}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        complaint = " ".join(str(error).split())
        raise DatasetError(f"{path}: expected a whole .npz file of plain arrays, got: {complaint}") from error


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


def _truth(path: Path, split: str, arrays: Mapping[str, NDArray[np.generic]]) -> Labels:
    name, array, rows = f"y_{split}", arrays[f"y_{split}"], len(arrays[f"x_{split}"])
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (rows,):
        raise DatasetError(
            f"{path}: {name}: expected integer labels of shape [{rows}], one a row of x_{split}, "
            f"got {array.dtype} {list(array.shape)}"
        )
    return array.astype(np.int64)


def _label_column(path: Path, split: str, truth_N: Labels) -> LabelColumn:
    return LabelColumn(f"{path}: y_{split}", truth_N, place=lambda row: f"row {row}")
