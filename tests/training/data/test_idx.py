import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.idx_folder import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    idx,
    random_files,
    write_files,
)
from training.data.registry import load_source
from training.data.splits import RawDataset, SplitRows, cut
from training.errors import DatasetError

ROWS = SplitRows(temperature=4, tune=4, certify=4, test=None)
FILES = random_files()


def load(folder: Path) -> RawDataset:
    return load_source("idx", data_dir=str(folder))


def error_of(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        load(folder)
    return str(caught.value)


@pytest.mark.parametrize("gzipped", [False, True])
def test_arrays_are_the_bytes_after_the_header(tmp_path: Path, gzipped: bool) -> None:
    write_files(tmp_path, FILES, gzipped=gzipped)
    source = load(tmp_path)
    assert source.official_test is not None
    test_NCHW, test_N = source.official_test
    assert (source.images_NCHW.shape, test_NCHW.shape) == ((40, 1, 4, 5), (20, 1, 4, 5))
    assert source.images_NCHW.tobytes() == FILES[TRAIN_IMAGES][16:]
    assert test_NCHW.tobytes() == FILES[TEST_IMAGES][16:]
    assert source.truth_N.dtype == test_N.dtype == np.dtype(np.int64)
    assert bytes(source.truth_N.tolist()) == FILES[TRAIN_LABELS][8:]
    assert bytes(test_N.tolist()) == FILES[TEST_LABELS][8:]


def test_labels_are_named_by_their_numbers(tmp_path: Path) -> None:
    write_files(tmp_path, random_files(classes=3), gzipped=False)
    assert load(tmp_path).labels == ("0", "1", "2")


def test_arrays_are_writable_for_torch(tmp_path: Path) -> None:
    write_files(tmp_path, FILES, gzipped=True)
    source = load(tmp_path)
    assert source.official_test is not None
    assert source.images_NCHW.flags.writeable
    assert source.official_test[0].flags.writeable


def test_the_digest_does_not_depend_on_folder_or_compression(tmp_path: Path) -> None:
    write_files(tmp_path / "here", FILES, gzipped=False)
    write_files(tmp_path / "there", FILES, gzipped=True)
    here, there = (cut(load(tmp_path / name), split_seed=0, rows=ROWS) for name in ("here", "there"))
    assert here.digests == there.digests


MISLABELLED = bytearray(FILES[TRAIN_LABELS])
MISLABELLED[8 + 17] = 200
MISLABELLED_TEST = bytearray(FILES[TEST_LABELS])
MISLABELLED_TEST[8 + 9] = 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN_IMAGES, b"", "byte 0: end: expected a header of 16 bytes, got 0"),
        (TRAIN_LABELS, b"\0\0\x08\x01\0\0", "byte 6: end: expected a header of 8 bytes, got 6"),
        (TRAIN_IMAGES, FILES[TRAIN_LABELS], "byte 0: magic: expected 0x00000803, got 0x00000801"),
        (
            TRAIN_LABELS,
            b"\0\0\x0d\x01" + FILES[TRAIN_LABELS][4:],
            "byte 0: magic: expected 0x00000801, got 0x00000d01",
        ),
        (TEST_IMAGES, idx((0, 4, 5), b""), "byte 4: count of images: expected at least 1, got 0"),
        (TEST_IMAGES, idx((20, 4, 0), b""), "byte 12: width: expected at least 1, got 0"),
        (
            TEST_IMAGES,
            FILES[TEST_IMAGES][:-3],
            "byte 413: end: expected 400 bytes of data for dimensions [20, 4, 5], got 397",
        ),
        (
            TEST_LABELS,
            FILES[TEST_LABELS] + b"?",
            "byte 28: end: expected 20 bytes of data for dimensions [20], got 21",
        ),
        (
            TRAIN_LABELS,
            idx((39,), FILES[TRAIN_LABELS][8:-1]),
            f"byte 4: count of labels: expected 40 as in {TRAIN_IMAGES}, got 39",
        ),
        (
            TEST_IMAGES,
            idx((20, 5, 4), FILES[TEST_IMAGES][16:]),
            f"byte 8: height and width: expected [4, 5] as in {TRAIN_IMAGES}, got [5, 4]",
        ),
        (
            TRAIN_LABELS,
            MISLABELLED,
            "expected labels 0..K-1, each at least once, but no row has label 10; "
            "the largest label is 200, in byte 8 + 17",
        ),
        (TRAIN_LABELS, idx((40,), bytes(40)), "expected 2 to 65536 distinct labels, got 1"),
        (TEST_LABELS, MISLABELLED_TEST, "byte 8 + 9: expected a label 0..9, got 10"),
    ],
)
def test_a_wrong_file_is_named_with_the_byte(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write_files(tmp_path, FILES | {name: bytes(content)}, gzipped=False)
    assert error_of(tmp_path) == f"{tmp_path / name}: {message}"


def test_errors_of_a_gzipped_file_name_the_uncompressed_byte(tmp_path: Path) -> None:
    write_files(tmp_path, FILES | {TEST_LABELS: bytes(MISLABELLED_TEST)}, gzipped=True)
    path = tmp_path / f"{TEST_LABELS}.gz"
    assert error_of(tmp_path) == f"{path}: byte 8 + 9 uncompressed: expected a label 0..9, got 10"


def test_a_truncated_gzipped_file_is_named_with_the_byte_of_its_end(tmp_path: Path) -> None:
    write_files(tmp_path, FILES, gzipped=True)
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:500])
    match = re.fullmatch(
        r"(.*): byte (\d+) uncompressed, or soon after: expected .* gzip stream, got: its end is missing",
        error_of(tmp_path),
    )
    assert match is not None
    assert match[1] == str(path)
    assert 400 < int(match[2]) < 500  # random bytes do not compress


def test_a_flipped_byte_in_a_gzipped_file_is_noticed(tmp_path: Path) -> None:
    write_files(tmp_path, FILES, gzipped=True)
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    message = error_of(tmp_path)
    assert re.match(rf"{re.escape(str(path))}: byte \d+ uncompressed.*, got: Error -3", message)


def test_bytes_after_a_gzipped_stream_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, FILES, gzipped=True)
    path = tmp_path / f"{TEST_LABELS}.gz"
    path.write_bytes(gzip.compress(FILES[TEST_LABELS]) + b"tail")
    assert error_of(tmp_path).startswith(f"{path}: byte 28 uncompressed, or soon after: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, FILES, gzipped=False)
    (tmp_path / TEST_LABELS).unlink()
    assert error_of(tmp_path) == f"{tmp_path}: expected {TEST_LABELS} or {TEST_LABELS}.gz in it, got neither"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    assert error_of(folder).startswith(f"{folder}: expected {TRAIN_IMAGES} or ")
    assert error_of(folder).endswith("got no such folder")
