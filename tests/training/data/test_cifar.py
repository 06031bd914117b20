from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.data.registry import load_source
from training.data.splits import RawDataset
from training.errors import DatasetError

TRAIN_FILES = [f"data_batch_{number}.bin" for number in range(1, 6)]
IMAGE_BYTES = 3 * 32 * 32


def pixel(row: int, channel: int, y: int, x: int) -> int:
    """Return a value that differs from all neighbours."""
    return (101 * row + 53 * channel + 7 * y + 3 * x) % 256


def image(row: int) -> bytes:
    return bytes(pixel(row, c, y, x) for c in range(3) for y in range(32) for x in range(32))


def write_cifar10(folder: Path, *, rows: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([*TRAIN_FILES, "test_batch.bin"]):
        records = [bytes([(number + row) % 10]) + image(number * rows + row) for row in range(rows)]
        (folder / name).write_bytes(b"".join(records))
    names = "".join(f"name {number}\n" for number in range(10))
    (folder / "batches.meta.txt").write_text(names + "\n")
    return folder


def write_cifar100(folder: Path, *, rows: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(["train.bin", "test.bin"]):
        records = [bytes([row % 20, 90 + number + row]) + image(number * rows + row) for row in range(rows)]
        (folder / name).write_bytes(b"".join(records))
    (folder / "fine_label_names.txt").write_text("".join(f"fine {number}\n" for number in range(100)))
    return folder


def load(name: str, folder: Path) -> RawDataset:
    return load_source(name, data_dir=str(folder))


def test_cifar10_is_its_five_batches_in_order_and_the_test_batch(tmp_path: Path) -> None:
    source = load("cifar10", write_cifar10(tmp_path))
    assert source.official_test is not None
    test_NCHW, test_N = source.official_test
    assert source.truth_N.tolist() == [number + row for number in range(5) for row in range(3)]
    assert test_N.tolist() == [5, 6, 7]
    assert source.images_NCHW.shape == (15, 3, 32, 32)
    assert source.images_NCHW.tobytes() == b"".join(image(row) for row in range(15))
    assert test_NCHW.tobytes() == b"".join(image(row) for row in range(15, 18))


def test_planes_are_red_green_blue_in_row_order(tmp_path: Path) -> None:
    images_NCHW = load("cifar10", write_cifar10(tmp_path)).images_NCHW
    for index in [(0, 0, 0, 0), (4, 1, 0, 31), (7, 2, 31, 0), (14, 0, 5, 9)]:
        assert images_NCHW[index] == pixel(*index)


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    source = load("cifar100", write_cifar100(tmp_path))
    assert source.official_test is not None
    assert source.truth_N.tolist() == [90, 91, 92]
    assert source.official_test[1].tolist() == [91, 92, 93]
    assert source.images_NCHW.tobytes() == b"".join(image(row) for row in range(3))
    assert source.labels[91] == "fine 91"


def test_names_come_from_the_names_file_without_its_empty_line(tmp_path: Path) -> None:
    assert load("cifar10", write_cifar10(tmp_path)).labels == tuple(f"name {number}" for number in range(10))


@pytest.mark.parametrize(
    ("name", "folder", "write"),
    [
        ("cifar10", "cifar-10-batches-bin", write_cifar10),
        ("cifar100", "cifar-100-binary", write_cifar100),
    ],
)
def test_the_parent_of_the_unpacked_folder_is_accepted(
    tmp_path: Path, name: str, folder: str, write: Callable[[Path], Path]
) -> None:
    within, above = load(name, write(tmp_path / folder)), load(name, tmp_path)
    np.testing.assert_array_equal(within.images_NCHW, above.images_NCHW)


def test_arrays_are_writable_for_torch(tmp_path: Path) -> None:
    source = load("cifar100", write_cifar100(tmp_path))
    assert source.official_test is not None
    assert source.images_NCHW.flags.writeable
    assert source.official_test[0].flags.writeable


def set_byte(byte: int, value: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:byte] + bytes([value]) + content[byte + 1 :]


@pytest.mark.parametrize(
    ("dataset", "name", "spoil", "message"),
    [
        (
            "cifar10",
            "data_batch_3.bin",
            set_byte(2 * 3073, 10),
            "byte 6146: label of record 2: expected a label 0..9, got 10",
        ),
        (
            "cifar100",
            "train.bin",
            set_byte(3074, 20),
            "byte 3074: coarse label of record 1: expected a label 0..19, got 20",
        ),
        (
            "cifar100",
            "test.bin",
            set_byte(3075, 255),
            "byte 3075: fine label of record 1: expected a label 0..99, got 255",
        ),
        (
            "cifar10",
            "test_batch.bin",
            lambda content: content[:-1],
            "byte 6146: record 2: expected 3073 bytes, got 3072",
        ),
        (
            "cifar100",
            "test.bin",
            lambda content: content + b"?",
            "byte 9222: record 3: expected 3074 bytes, got 1",
        ),
        ("cifar100", "train.bin", lambda _: b"", "byte 0: record 0: expected 3074 bytes, got 0"),
        (
            "cifar10",
            "batches.meta.txt",
            lambda content: content + b"another\n",
            "expected 10 names, one per line, got 11",
        ),
        (
            "cifar100",
            "fine_label_names.txt",
            set_byte(3, 0xFF),
            "byte 3: expected text in UTF-8, got invalid start byte",
        ),
    ],
)
def test_a_wrong_file_is_named_with_the_byte(
    tmp_path: Path, dataset: str, name: str, spoil: Callable[[bytes], bytes], message: str
) -> None:
    write_cifar10(tmp_path)
    write_cifar100(tmp_path)
    path = tmp_path / name
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DatasetError) as caught:
        load(dataset, tmp_path)
    assert str(caught.value) == f"{path}: {message}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(DatasetError, match=r"data_batch_4.bin: expected a readable file, got: No such file"):
        load("cifar10", tmp_path)
