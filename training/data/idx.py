"""Reads IDX, the file format of MNIST: a magic number, the dimensions, then the data.

    byte 0    magic: 0, 0, 8 for unsigned bytes, the count of dimensions
    byte 4    each dimension as a big-endian UINT32
    then      the data, last dimension fastest

A dataset is four such files in one folder, each plain or gzipped. Every error names the file and the byte.
In a gzipped file it is the byte of the uncompressed content.

Shapes: `N` rows, `C H W` image, `K` classes. Images have one channel.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.content import read_content, read_gzip_content
from training.data.labels import LabelColumn, check_within, count_classes
from training.data.splits import Images, Labels, RawDataset
from training.errors import DatasetError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)

UNSIGNED_BYTES = 0x0800
IMAGE_DIMENSIONS = ("count of images", "height", "width")
LABEL_DIMENSIONS = ("count of labels",)


@dataclass(frozen=True)
class IdxFile:
    """The array of one file, with errors that name a byte of it."""

    path: Path
    array: Images

    def byte_name(self, byte: int | str) -> str:
        """Return the name of a byte, counted from the start of the uncompressed file."""
        return f"byte {byte} uncompressed" if _is_gzipped(self.path) else f"byte {byte}"

    def error(self, byte: int | str, problem: str) -> DatasetError:
        """Return the error for a byte."""
        return DatasetError(f"{self.path}: {self.byte_name(byte)}: {problem}")


def load_idx(data_dir: Path) -> RawDataset:
    """Load the four files of a folder. Labels are 0..K-1, and their names are these numbers."""
    return read_idx_set("idx", data_dir, labels=None)


def read_idx_set(name: str, folder: Path, labels: tuple[str, ...] | None) -> RawDataset:
    """Read the four files of a folder. Without class names, the classes are counted in the train file."""
    train_NHW, train_N = _read_pair(folder, TRAIN_IMAGES, TRAIN_LABELS)
    test_NHW, test_N = _read_pair(folder, TEST_IMAGES, TEST_LABELS)
    if train_NHW.array.shape[1:] != test_NHW.array.shape[1:]:
        raise test_NHW.error(
            8,
            f"height and width: expected {list(train_NHW.array.shape[1:])} as in {train_NHW.path.name}, "
            f"got {list(test_NHW.array.shape[1:])}",
        )
    train, test = _label_column(train_N), _label_column(test_N)
    if labels is None:
        labels = tuple(str(number) for number in range(count_classes(train)))
    check_within(train, len(labels))
    check_within(test, len(labels))
    official_test = (_with_channel(test_NHW), test.truth_N)
    return RawDataset(name, labels, _with_channel(train_NHW), train.truth_N, official_test)


def find_idx_file(folder: Path, name: str) -> Path | None:
    """Return the path of a plain or gzipped file of the dataset; None if neither exists."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(path: Path, dimensions: tuple[str, ...]) -> IdxFile:
    """Read one file of unsigned bytes; gzipped if its name ends in .gz. `dimensions` are names for errors."""
    content = read_gzip_content(path) if _is_gzipped(path) else read_content(path)
    data_start = 4 + 4 * len(dimensions)
    file = IdxFile(path, np.frombuffer(content, np.uint8)[data_start:])
    if len(content) < data_start:
        raise file.error(len(content), f"end: expected a header of {data_start} bytes, got {len(content)}")
    magic, *shape = struct.unpack_from(f">{1 + len(dimensions)}I", content)
    if magic != UNSIGNED_BYTES | len(dimensions):
        raise file.error(0, f"magic: expected 0x{UNSIGNED_BYTES | len(dimensions):08x}, got 0x{magic:08x}")
    if 0 in shape:
        wrong = shape.index(0)
        raise file.error(4 + 4 * wrong, f"{dimensions[wrong]}: expected at least 1, got 0")
    declared_bytes, data_bytes = math.prod(shape), len(content) - data_start
    if data_bytes != declared_bytes:
        raise file.error(
            data_start + min(data_bytes, declared_bytes),
            f"end: expected {declared_bytes} bytes of data for dimensions {shape}, got {data_bytes}",
        )
    return IdxFile(path, file.array.reshape(shape))


def _read_pair(folder: Path, images: str, labels: str) -> tuple[IdxFile, IdxFile]:
    images_NHW = read_idx(_existing(folder, images), IMAGE_DIMENSIONS)
    truth_N = read_idx(_existing(folder, labels), LABEL_DIMENSIONS)
    if len(truth_N.array) != len(images_NHW.array):
        raise truth_N.error(
            4,
            f"count of labels: expected {len(images_NHW.array)} as in {images_NHW.path.name}, "
            f"got {len(truth_N.array)}",
        )
    return images_NHW, truth_N


def _existing(folder: Path, name: str) -> Path:
    path = find_idx_file(folder, name)
    if path is None:
        got = "neither" if folder.is_dir() else "no such folder"
        raise DatasetError(f"{folder}: expected {name} or {name}.gz in it, got {got}")
    return path


def _label_column(file: IdxFile) -> LabelColumn:
    truth_N: Labels = file.array.astype(np.int64)
    return LabelColumn(str(file.path), truth_N, row_name=lambda row: file.byte_name(f"8 + {row}"))


def _with_channel(file: IdxFile) -> Images:
    return file.array[:, np.newaxis]


def _is_gzipped(path: Path) -> bool:
    return path.suffix == ".gz"
