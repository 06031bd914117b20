import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.registry import load_source
from training.data.splits import Dataset, SplitRows, cut
from training.errors import DatasetError, RecipeError

NPZ_ROWS = SplitRows(temperature=4, tune=4, certify=4, test=None)
Arrays = dict[str, np.ndarray[Any, Any]]


def plain_arrays() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (30, 8, 8), dtype=np.uint8),
        "y_train": np.arange(30) % 3,
        "x_test": rng.integers(0, 256, (6, 8, 8), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
    }


def load_npz(path: Path) -> Dataset:
    return cut(load_source("npz", file=str(path)), split_seed=0, rows=NPZ_ROWS)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "own.npz"
    np.savez(path, allow_pickle=False, **plain_arrays())
    return path


def change(**arrays: np.ndarray[Any, Any]) -> Callable[[Arrays], Arrays]:
    return lambda plain: plain | arrays


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda plain: {"x_train": plain["x_train"]},
            r"expected arrays x_train, y_train, x_test, y_test, or x, y, got x_train$",
        ),
        (
            change(x_train=np.zeros((30, 8, 8))),
            r"x_train: expected uint8 images .*, got float64 \[30, 8, 8\]",
        ),
        (
            change(x_train=np.zeros((30, 64), np.uint8)),
            r"x_train: expected .*, got uint8 \[30, 64\]; "
            r"if the images are square, use x_train.reshape\(-1, 8, 8\)$",
        ),
        (change(x_train=np.zeros((30, 60), np.uint8)), r"x_train: expected .*, got uint8 \[30, 60\]$"),
        (change(x_train=np.zeros((0, 8, 8), np.uint8)), r"x_train: expected .*, got uint8 \[0, 8, 8\]$"),
        (
            change(x_train=np.zeros((30, 8, 9, 3), np.uint8)),
            r"x_train: expected .*, got uint8 \[30, 8, 9, 3\]; "
            r"this looks like channels last; use x_train.transpose\(0, 3, 1, 2\)$",
        ),
        (
            change(x_test=np.zeros((6, 8, 8, 1), np.uint8)),
            r"x_test: expected .*; this looks like channels last; use x_test.transpose\(0, 3, 1, 2\)$",
        ),
        (
            change(x_train=np.full((30, 8, 8), 0.5, np.float32)),
            r"got float32 \[30, 8, 8\]; for values 0 to 1 "
            r'use \(x_train \* 255\).round\(\).astype\("uint8"\)$',
        ),
        (
            change(x_train=np.full((30, 8, 8), 200)),
            r'got int64 \[30, 8, 8\]; for values 0 to 255 use x_train.round\(\).astype\("uint8"\)$',
        ),
        (
            change(x_train=np.full((30, 8, 8), -0.5)),
            r"got float64 \[30, 8, 8\]; values are -0.5 to -0.5: scale them to 0 to 255 first$",
        ),
        (change(x_train=np.full((30, 8, 8), 1j)), r"got complex128 \[30, 8, 8\]$"),
        (change(y_train=np.arange(29) % 3), r"y_train: expected integer labels of shape \[30\].*\[29\]"),
        (change(y_train=np.linspace(0, 1, 30)), r"y_train: expected integer labels .*, got float64 \[30\]"),
        (
            change(y_train=np.arange(30) % 3 + 1),
            r"y_train: row 2: expected labels 0..2, each at least once, got 3; "
            r"all labels are 1..3, so subtract 1$",
        ),
        (
            change(y_train=np.arange(30) % 3 + 4),
            r"y_train: row 0: expected labels 0..2, each at least once, got 4; "
            r"all labels are 4..6, so subtract 4$",
        ),
        (
            change(y_train=np.arange(30) % 3 * 2),
            r"y_train: expected labels 0..K-1, each at least once, but no row has label 1; "
            r"the largest label is 4, in row 2$",
        ),
        (
            change(y_train=np.arange(30) % 3 * 2 + 1),
            r"y_train: expected .*, but no row has label 0; the largest label is 5, in row 2$",
        ),
        (
            change(y_train=(np.arange(30) + 1) % 3 - 1),
            r"y_train: row 2: expected labels of at least 0, got -1$",
        ),
        (change(y_train=np.zeros(30, int)), r"y_train: expected 2 to 65536 distinct labels, got 1$"),
        (
            change(y_test=np.array([0, 1, 2, 0, 2**64 - 1, 3], np.uint64)),
            r"y_test: row 4: expected a label 0..65535, got 18446744073709551615",
        ),
        (change(y_test=np.array([0, 1, 2, 0, 3, 3])), r"y_test: row 4: expected a label 0..2, got 3"),
        (change(y_test=np.array([0, -1, 2, 0, 1, 3])), r"y_test: row 1: expected a label 0..2, got -1"),
        (change(x_test=np.zeros((6, 9, 9), np.uint8)), r"x_test: expected .*\[1, 8, 8\].*, got \[1, 9, 9\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, spoil: Callable[[Arrays], Arrays], message: str
) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, allow_pickle=False, **spoil(plain_arrays()))
    with pytest.raises(DatasetError, match=message) as caught:
        load_npz(path)
    assert str(path) in str(caught.value)


def test_official_test_rows_are_the_arrays_named_test(npz: Path) -> None:
    dataset = load_npz(npz)
    np.testing.assert_array_equal(dataset.test.images_NCHW[:, 0], plain_arrays()["x_test"])
    np.testing.assert_array_equal(dataset.test.truth_N, plain_arrays()["y_test"])


def test_images_may_have_channels(tmp_path: Path) -> None:
    arrays = plain_arrays()
    for name in ("x_train", "x_test"):
        arrays[name] = arrays[name][:, np.newaxis].repeat(3, axis=1)
    np.savez(tmp_path / "own.npz", allow_pickle=False, **arrays)
    assert load_npz(tmp_path / "own.npz").image_shape == (3, 8, 8)


@pytest.mark.parametrize("shape", [(30, 5, 9), (30, 3, 5, 9), (30, 3, 3, 3), (30, 1, 7, 1)])
def test_images_need_not_be_square(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "own.npz", allow_pickle=False, x=images, y=np.arange(30) % 3)
    source = load_source("npz", file=str(tmp_path / "own.npz"))
    np.testing.assert_array_equal(source.images_NCHW.reshape(shape), images)


def test_x_and_y_alone_have_no_official_test_rows(tmp_path: Path) -> None:
    arrays = plain_arrays()
    path = tmp_path / "own.npz"
    np.savez(path, allow_pickle=False, x=arrays["x_train"], y=arrays["y_train"])

    with pytest.raises(RecipeError, match=r'dataset.test_rows of "npz": expected a count of rows, got None'):
        load_npz(path)
    rows = SplitRows(temperature=4, tune=4, certify=4, test=6)
    dataset = cut(load_source("npz", file=str(path)), split_seed=0, rows=rows)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 12,
        "temperature": 4,
        "tune": 4,
        "certify": 4,
        "test": 6,
    }


def test_test_rows_are_used_if_a_file_also_has_x_and_y(tmp_path: Path) -> None:
    arrays = plain_arrays()
    np.savez(tmp_path / "own.npz", allow_pickle=False, **arrays, x=arrays["x_test"], y=arrays["y_test"])
    assert len(load_npz(tmp_path / "own.npz").test) == 6


def test_the_digest_changes_with_a_single_pixel(tmp_path: Path, npz: Path) -> None:
    arrays = plain_arrays()
    arrays["x_test"][0, 0, 0] ^= 1
    np.savez(tmp_path / "other.npz", allow_pickle=False, **arrays)
    assert load_npz(npz).digest != load_npz(tmp_path / "other.npz").digest


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere.npz: expected an .npz file .*, got no such file"):
        load_npz(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(npz: Path, share: float) -> None:
    npz.write_bytes(npz.read_bytes()[: int(share * npz.stat().st_size)])
    with pytest.raises(DatasetError, match=r"own.npz: expected a complete .npz file"):
        load_npz(npz)


def test_a_flipped_byte_is_noticed(npz: Path) -> None:
    content = bytearray(npz.read_bytes())
    content[500] ^= 0xFF
    npz.write_bytes(content)
    with pytest.raises(DatasetError, match=r"own.npz: x_train: expected a complete, plain array, got: .*CRC"):
        load_npz(npz)


def npy(header: str, data: bytes = b"") -> bytes:
    """Return a file in NumPy's format, version 1, with any header."""
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def of_shape(shape: int) -> bytes:
    return npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape},)}}")


def archive(x_train: bytes, name: str = "x_train.npy", compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive with the given first member; the other members are valid."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr(name, x_train, compression)
        for other, array in plain_arrays().items():
            if other != "x_train":
                member = io.BytesIO()
                np.save(member, array)
                file.writestr(f"{other}.npy", member.getvalue())
    return content.getvalue()


def patched(content: bytes, local: int, central: int, value: int) -> bytes:
    """Set two bytes of the first member's header, in both places where the archive has it."""
    spoilt = bytearray(content)
    for offset in (local, content.index(b"PK\x01\x02") + central):
        spoilt[offset : offset + 2] = value.to_bytes(2, "little")
    return bytes(spoilt)


def damaged_lzma() -> bytes:
    content = bytearray(archive(of_shape(30), compression=zipfile.ZIP_LZMA))
    start = 30 + len("x_train.npy") + 9  # behind the entry and LZMA's own properties
    content[start : start + 8] = b"\xff" * 8
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(archive(npy("{'descr': '|u1', 'fortran_ord")), "", id="header that ends early"),
        pytest.param(patched(archive(of_shape(30)), 6, 8, 1), ".*encrypted", id="encrypted"),
        pytest.param(patched(archive(of_shape(30)), 8, 10, 77), ".*compression", id="unknown compression"),
        pytest.param(damaged_lzma(), "", id="damaged LZMA"),
        pytest.param(archive(of_shape(10**15)), "", id="more rows than memory"),
        pytest.param(archive(of_shape(10**26)), "", id="more rows than numbers"),
        pytest.param(archive(npy("{'descr': '|u1', 3: False, 'shape': (1,)}")), "", id="mixed keys"),
    ],
)
def test_any_exception_of_reading_an_array_becomes_an_error_of_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(content)

    with pytest.raises(
        DatasetError, match=rf"own\.npz: x_train: expected a complete, plain array, got: {message}"
    ) as caught:
        load_npz(path)
    assert "\n" not in str(caught.value)
    assert not str(caught.value).endswith("got: ")


def test_a_member_that_is_no_array_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(archive(b"just bytes", name="x_train"))

    with pytest.raises(DatasetError, match=r"own\.npz: x_train: expected an array in NumPy's format"):
        load_npz(path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, **(plain_arrays() | {"y_train": np.array([{}] * 30, dtype=object)}))
    with pytest.raises(DatasetError) as caught:
        load_npz(path)
    assert str(caught.value) == (
        f"{path}: y_train: expected a complete, plain array, got: Python objects; save plain arrays"
    )


def test_another_kind_of_file_is_refused_without_numpys_advice(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(DatasetError) as caught:
        load_npz(path)
    assert str(caught.value) == (
        f"{path}: expected a complete .npz file of plain arrays, got: another file format"
    )


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.zeros(3))
    with pytest.raises(DatasetError, match="got no archive of arrays"):
        load_npz(tmp_path / "own.npy")
