import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from training.data.registry import load_dataset
from training.data.splits import Dataset, SplitRows
from training.errors import DatasetError, RecipeError

DIGITS_ROWS = SplitRows(temperature=100, tune=200, certify=200, test=360)
NPZ_ROWS = SplitRows(temperature=4, tune=4, certify=4, test=None)
Arrays = dict[str, np.ndarray[Any, Any]]


def cut_digits(split_seed: int = 0) -> Dataset:
    return load_dataset("digits", None, split_seed=split_seed, rows=DIGITS_ROWS)


def plain_arrays() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (30, 8, 8), dtype=np.uint8),
        "y_train": np.arange(30) % 3,
        "x_test": rng.integers(0, 256, (6, 8, 8), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
    }


def load_npz(path: Path) -> Dataset:
    return load_dataset("npz", str(path), split_seed=0, rows=NPZ_ROWS)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "own.npz"
    np.savez(path, allow_pickle=False, **plain_arrays())
    return path


def test_digits_are_cut_into_five_splits_of_the_stated_sizes() -> None:
    sizes = {name: len(split) for name, split in cut_digits().splits.items()}
    assert sizes == {"train": 937, "temperature": 100, "tune": 200, "certify": 200, "test": 360}


def test_the_splits_are_disjoint_and_together_the_whole_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every image gets its row number for pixels, so that rows can be told apart after the cut.
    digits = load_digits()
    numbers = np.arange(len(digits.target))
    digits.images = np.stack([numbers // 256, numbers % 256], axis=1)[:, :, np.newaxis].repeat(2, axis=2)
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: digits)
    rows = [
        int(image[0, 0, 0]) * 256 + int(image[0, 1, 0])
        for split in cut_digits().splits.values()
        for image in split.images_NCHW
    ]
    assert sorted(rows) == list(range(1797))


def test_the_test_rows_are_row_numbers_of_the_source() -> None:
    dataset, digits = cut_digits(), load_digits()
    assert dataset.test_rows is not None
    rows = np.array(dataset.test_rows)
    np.testing.assert_array_equal(dataset.test.images_NCHW[:, 0], digits.images[rows].astype(np.uint8))
    np.testing.assert_array_equal(dataset.test.truth_N, digits.target[rows])


def test_a_split_digest_is_the_sha_256_of_its_row_numbers() -> None:
    dataset = cut_digits()
    rows = np.array(dataset.test_rows, dtype="<i8")
    assert dataset.test.digest == hashlib.sha256(rows.tobytes()).hexdigest()


def test_the_cut_follows_from_the_split_seed_alone() -> None:
    assert cut_digits(1).test_rows == cut_digits(1).test_rows
    assert cut_digits(1).test_rows != cut_digits(0).test_rows
    assert cut_digits(1).digest == cut_digits(0).digest


def test_digit_pixels_are_as_the_source_has_them() -> None:
    images = cut_digits().train.images_NCHW
    assert images.dtype == np.uint8
    assert (images.shape[1:], int(images.max())) == ((1, 8, 8), 16)


def test_too_few_rows_are_refused_with_both_counts() -> None:
    rows = SplitRows(temperature=1000, tune=200, certify=237, test=360)
    with pytest.raises(DatasetError, match=r'"digits": expected more than the 1797 rows .*, got 1797'):
        load_dataset("digits", None, split_seed=0, rows=rows)


def test_a_set_without_official_test_rows_needs_a_count_of_them() -> None:
    rows = SplitRows(temperature=100, tune=200, certify=200, test=None)
    with pytest.raises(RecipeError, match=r'dataset.test_rows of "digits": expected a count .*, got None'):
        load_dataset("digits", None, split_seed=0, rows=rows)


def test_an_official_test_split_stays_the_test_split(npz: Path) -> None:
    dataset = load_npz(npz)
    np.testing.assert_array_equal(dataset.test.images_NCHW[:, 0], plain_arrays()["x_test"])
    assert dataset.test_rows is None
    assert len(dataset.train) == 30 - 12


def test_a_count_of_test_rows_beside_an_official_test_split_is_refused(npz: Path) -> None:
    with pytest.raises(RecipeError, match=r'dataset.test_rows of "npz": expected none.*, got 360'):
        load_dataset("npz", str(npz), split_seed=0, rows=DIGITS_ROWS)


def test_images_with_channels_are_taken_as_they_are(tmp_path: Path) -> None:
    arrays = plain_arrays()
    for name in ("x_train", "x_test"):
        arrays[name] = arrays[name][:, np.newaxis].repeat(3, axis=1)
    np.savez(tmp_path / "own.npz", allow_pickle=False, **arrays)
    assert load_npz(tmp_path / "own.npz").image_shape == (3, 8, 8)


def test_the_digest_changes_with_a_single_pixel(tmp_path: Path, npz: Path) -> None:
    arrays = plain_arrays()
    arrays["x_test"][0, 0, 0] ^= 1
    np.savez(tmp_path / "other.npz", allow_pickle=False, **arrays)
    assert load_npz(npz).digest != load_npz(tmp_path / "other.npz").digest


def change(**arrays: np.ndarray[Any, Any]) -> Callable[[Arrays], Arrays]:
    return lambda plain: plain | arrays


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda plain: {"x_train": plain["x_train"]}, r"expected arrays x_train, y_train.*, got x_train$"),
        (
            change(x_train=np.zeros((30, 8, 8))),
            r"x_train: expected uint8 images .*, got float64 \[30, 8, 8\]",
        ),
        (change(x_train=np.zeros((30, 64), np.uint8)), r"x_train: expected .*, got uint8 \[30, 64\]"),
        (change(y_train=np.arange(29) % 3), r"y_train: expected integer labels of shape \[30\].*\[29\]"),
        (change(y_train=np.linspace(0, 1, 30)), r"y_train: expected integer labels .*, got float64 \[30\]"),
        (
            change(y_train=np.arange(30) % 3 + 1),
            r"y_train: expected labels 0..K-1.*got 3 distinct from 1 to 3",
        ),
        (change(y_train=np.zeros(30, int)), r"y_train: expected .*, got 1 distinct from 0 to 0"),
        (change(y_test=np.full(6, 3)), r"y_test: expected labels 0..2 as in y_train, got 3..3"),
        (change(x_test=np.zeros((6, 9, 9), np.uint8)), r"x_test: expected .*\[1, 8, 8\].*, got \[1, 9, 9\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, spoil: Callable[[Arrays], Arrays], complaint: str
) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, allow_pickle=False, **spoil(plain_arrays()))
    with pytest.raises(DatasetError, match=complaint) as caught:
        load_npz(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere.npz: expected an .npz file .*, got no such file"):
        load_npz(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(npz: Path, share: float) -> None:
    npz.write_bytes(npz.read_bytes()[: int(share * npz.stat().st_size)])
    with pytest.raises(DatasetError, match=r"own.npz: expected a whole .npz file"):
        load_npz(npz)


def test_a_flipped_byte_is_noticed(npz: Path) -> None:
    content = bytearray(npz.read_bytes())
    content[500] ^= 0xFF
    npz.write_bytes(content)
    with pytest.raises(DatasetError, match=r"own.npz: expected a whole .npz file .*CRC"):
        load_npz(npz)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, **(plain_arrays() | {"y_train": np.array([{}] * 30, dtype=object)}))
    with pytest.raises(DatasetError, match=r"expected a whole .npz file of plain arrays"):
        load_npz(path)


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.zeros(3))
    with pytest.raises(DatasetError, match="got no archive of arrays"):
        load_npz(tmp_path / "own.npy")


def test_an_npz_set_needs_a_file_and_digits_take_none() -> None:
    with pytest.raises(RecipeError, match=r'dataset.file: expected a path for "npz", got none'):
        load_dataset("npz", None, split_seed=0, rows=NPZ_ROWS)
    with pytest.raises(RecipeError, match=r'dataset.file: expected none for "digits".*got \'x.npz\''):
        load_dataset("digits", "x.npz", split_seed=0, rows=DIGITS_ROWS)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="dataset: expected one of digits, npz, got 'mnist'"):
        load_dataset("mnist", None, split_seed=0, rows=DIGITS_ROWS)
