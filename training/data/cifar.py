"""Reads the binary version of CIFAR-10 and CIFAR-100, never the pickled one.

A record is one label byte (CIFAR-100: coarse, then fine), then 3,072 bytes of a 32x32 image: red, green,
blue. The fine label is the truth. A file may have any number of records.

Shapes: `N` rows, `R` bytes of a record, `C H W` image.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.content import read_content
from training.data.labels import LabelColumn, check_within
from training.data.splits import Images, Labels, RawDataset
from training.errors import DatasetError

IMAGE_SHAPE = (3, 32, 32)
IMAGE_BYTES = 3072


@dataclass(frozen=True)
class LabelByte:
    """A label byte at the start of a record."""

    name: str
    classes: int


@dataclass(frozen=True)
class Layout:
    """File names and record layout of one of the two datasets."""

    name: str
    folder: str
    """Folder in the official archive."""
    train_files: tuple[str, ...]
    test_file: str
    names_file: str
    """Class names, one per line."""
    label_bytes: tuple[LabelByte, ...]
    """The last is the truth."""

    @property
    def record_bytes(self) -> int:
        """Bytes of a record."""
        return len(self.label_bytes) + IMAGE_BYTES


CIFAR10 = Layout(
    name="cifar10",
    folder="cifar-10-batches-bin",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_file="test_batch.bin",
    names_file="batches.meta.txt",
    label_bytes=(LabelByte("label", 10),),
)
CIFAR100 = Layout(
    name="cifar100",
    folder="cifar-100-binary",
    train_files=("train.bin",),
    test_file="test.bin",
    names_file="fine_label_names.txt",
    label_bytes=(LabelByte("coarse label", 20), LabelByte("fine label", 100)),
)


def load_cifar10(data_dir: Path) -> RawDataset:
    """Load CIFAR-10 from the folder of its files, or from the parent of `cifar-10-batches-bin`."""
    return _load(CIFAR10, data_dir)


def load_cifar100(data_dir: Path) -> RawDataset:
    """Load CIFAR-100 from the folder of its files, or from the parent of `cifar-100-binary`."""
    return _load(CIFAR100, data_dir)


def _load(layout: Layout, data_dir: Path) -> RawDataset:
    folder = data_dir / layout.folder if (data_dir / layout.folder).is_dir() else data_dir
    labels = _read_names(folder / layout.names_file, layout.label_bytes[-1].classes)
    train_NCHW, train_N = _read_rows(layout, [folder / name for name in layout.train_files])
    official_test = _read_rows(layout, [folder / layout.test_file])
    return RawDataset(layout.name, labels, train_NCHW, train_N, official_test)


def _read_names(path: Path, classes: int) -> tuple[str, ...]:
    content = read_content(path)
    try:
        names = tuple(line.strip() for line in content.decode().splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: byte {error.start}: expected text in UTF-8, got {error.reason}"
        ) from error
    if len(names) != classes:
        raise DatasetError(f"{path}: expected {classes} names, one per line, got {len(names)}")
    return names


def _read_rows(layout: Layout, paths: list[Path]) -> tuple[Images, Labels]:
    records = [_read_records(layout, path) for path in paths]
    labels = len(layout.label_bytes)
    images_NR = np.concatenate([record_NR[:, labels:] for record_NR in records])
    truth_N = np.concatenate([record_NR[:, labels - 1] for record_NR in records])
    return images_NR.reshape(-1, *IMAGE_SHAPE), truth_N.astype(np.int64)


def _read_records(layout: Layout, path: Path) -> Images:
    content = read_content(path)
    count, rest_bytes = divmod(len(content), layout.record_bytes)
    if rest_bytes or not count:
        raise DatasetError(
            f"{path}: byte {count * layout.record_bytes}: record {count}: "
            f"expected {layout.record_bytes} bytes, got {rest_bytes}"
        )
    record_NR = np.frombuffer(content, np.uint8).reshape(count, layout.record_bytes)
    for offset in range(len(layout.label_bytes)):
        _check_labels(layout, path, record_NR, offset)
    return record_NR


def _check_labels(layout: Layout, path: Path, record_NR: Images, offset: int) -> None:
    label = layout.label_bytes[offset]

    def row_name(row: int) -> str:
        return f"byte {row * layout.record_bytes + offset}: {label.name} of record {row}"

    check_within(LabelColumn(str(path), record_NR[:, offset].astype(np.int64), row_name), label.classes)
