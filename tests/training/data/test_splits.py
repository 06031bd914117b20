import hashlib
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from training.data.registry import load_source
from training.data.repeats import Repeats
from training.data.splits import Dataset, RawDataset, Split, SplitRows, cut, cut_without_training
from training.errors import DatasetError, RecipeError

DIGITS_ROWS = SplitRows(temperature=100, tune=200, certify=200, test=360)
OFFICIAL_ROWS = SplitRows(temperature=4, tune=4, certify=4, test=None)


def cut_digits(split_seed: int = 0) -> Dataset:
    return cut(load_source("digits"), split_seed=split_seed, rows=DIGITS_ROWS)


def source_with_official_test() -> RawDataset:
    rng = np.random.default_rng(0)
    images_NCHW = rng.integers(0, 256, (36, 1, 8, 8), dtype=np.uint8)
    truth_N = np.arange(36) % 3
    return RawDataset(
        "small", ("a", "b", "c"), images_NCHW[:30], truth_N[:30], (images_NCHW[30:], truth_N[30:])
    )


def test_digits_are_cut_into_five_splits_of_the_stated_sizes() -> None:
    sizes = {name: len(split) for name, split in cut_digits().splits.items()}
    assert sizes == {"train": 937, "temperature": 100, "tune": 200, "certify": 200, "test": 360}


def test_the_splits_are_disjoint_and_cover_the_source() -> None:
    # The pixels of every image are its row number, so that each row can be identified after the cut.
    digits = load_source("digits")
    numbers = np.arange(len(digits.truth_N))
    images_NCHW = np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8).reshape(-1, 1, 2, 1)
    dataset = cut(replace(digits, images_NCHW=images_NCHW), split_seed=0, rows=DIGITS_ROWS)
    rows = [
        int(image[0, 0, 0]) * 256 + int(image[0, 1, 0])
        for split in dataset.splits.values()
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


def test_the_cut_depends_on_the_split_seed() -> None:
    assert cut_digits(1).test_rows == cut_digits(1).test_rows
    assert cut_digits(1).test_rows != cut_digits(0).test_rows
    assert cut_digits(1).digest == cut_digits(0).digest


def test_digit_pixels_are_not_scaled() -> None:
    images = cut_digits().train.images_NCHW
    assert images.dtype == np.uint8
    assert (images.shape[1:], int(images.max())) == ((1, 8, 8), 16)


def test_too_few_rows_are_refused_with_both_counts() -> None:
    rows = SplitRows(temperature=1000, tune=200, certify=237, test=360)
    with pytest.raises(DatasetError, match=r'"digits": expected more than the 1797 rows .*, got 1797'):
        cut(load_source("digits"), split_seed=0, rows=rows)


def test_test_rows_is_required_without_an_official_test_split() -> None:
    rows = SplitRows(temperature=100, tune=200, certify=200, test=None)
    with pytest.raises(RecipeError, match=r'dataset.test_rows of "digits": expected a count .*, got None'):
        cut(load_source("digits"), split_seed=0, rows=rows)


def test_an_official_test_split_is_the_test_split() -> None:
    source = source_with_official_test()
    dataset = cut(source, split_seed=0, rows=OFFICIAL_ROWS)
    assert source.official_test is not None
    np.testing.assert_array_equal(dataset.test.images_NCHW, source.official_test[0])
    assert dataset.test_rows is None
    assert len(dataset.train) == 30 - 12


def test_test_rows_is_refused_with_an_official_test_split() -> None:
    with pytest.raises(RecipeError, match=r'dataset.test_rows of "small": expected none.*, got 360'):
        cut(source_with_official_test(), split_seed=0, rows=DIGITS_ROWS)


def test_the_digest_covers_datatype_shape_and_bytes_of_every_array() -> None:
    source = source_with_official_test()
    assert source.official_test is not None
    digest = hashlib.sha256()
    for array in (source.images_NCHW, source.truth_N, *source.official_test):
        digest.update(f"{array.dtype.name} {array.shape}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    assert cut(source, split_seed=0, rows=OFFICIAL_ROWS).digest == digest.hexdigest()


def source_of(rows: int) -> RawDataset:
    images_NCHW = np.arange(rows, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis]
    return RawDataset("small", ("a", "b"), images_NCHW, np.arange(rows) % 2, official_test=None)


def test_a_cut_without_training_gives_four_disjoint_splits() -> None:
    dataset = cut_without_training(source_of(57), split_seed=3)

    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 0, "temperature": 5, "tune": 11, "certify": 22, "test": 19}
    rows = [int(image[0, 0, 0]) for split in dataset.splits.values() for image in split.images_NCHW]
    assert sorted(rows) == list(range(57))
    assert dataset.test_rows == tuple(int(image[0, 0, 0]) for image in dataset.test.images_NCHW)
    assert dataset.image_shape == (1, 1, 1)


def test_a_cut_without_training_depends_on_the_split_seed() -> None:
    first, again, other = (cut_without_training(source_of(40), split_seed=seed) for seed in (3, 3, 4))

    assert first.digests == again.digests
    assert first.digests.dataset == other.digests.dataset
    assert first.digests.splits != other.digests.splits


def test_too_few_rows_for_four_splits_are_refused() -> None:
    message = 'dataset "small": expected at least 10 different images to cut, got 9'
    with pytest.raises(DatasetError, match=message):
        cut_without_training(source_of(9), split_seed=0)


def source_with_copies(copies: int, distinct: int = 60) -> RawDataset:
    """Return a source in which every image occurs `copies` times. Its pixel is the number of the image."""
    numbers = np.arange(distinct * copies) % distinct
    images_NCHW = numbers.astype(np.uint8)[:, np.newaxis, np.newaxis, np.newaxis]
    return RawDataset("copies", ("a", "b"), images_NCHW, numbers % 2, official_test=None)


def test_images_with_copies_are_not_more_frequent_in_any_split() -> None:
    """Half of the images have one copy. Without a bias, they are half of every split."""
    numbers = np.concatenate([np.arange(4_000), np.arange(2_000)])
    images_NCHW = numbers.astype("<u2").view(np.uint8).reshape(-1, 1, 1, 2)
    source = RawDataset("copies", ("a", "b"), images_NCHW, numbers % 2, official_test=None)

    dataset = cut(source, split_seed=0, rows=SplitRows(temperature=800, tune=800, certify=800, test=800))

    for name, split in dataset.splits.items():
        image_N = split.images_NCHW.reshape(-1, 2).copy().view("<u2")[:, 0]
        different = np.unique(image_N)
        assert 0.44 < (different < 2_000).mean() < 0.56, name


def images_of(split: Split) -> list[int]:
    return [int(image[0, 0, 0]) for image in split.images_NCHW]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("copies", [1, 2, 5])
def test_no_image_is_in_two_splits(copies: int, seed: int) -> None:
    rows = SplitRows(temperature=5, tune=10, certify=15, test=12)
    dataset = cut(source_with_copies(copies), split_seed=seed, rows=rows)

    images = {name: images_of(split) for name, split in dataset.splits.items()}
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 18 * copies, "temperature": 5, "tune": 10, "certify": 15, "test": 12}
    assert sum(len(set(numbers)) for numbers in images.values()) == 60 == len(set().union(*images.values()))
    assert dataset.repeats == Repeats(repeated_rows=60 * (copies - 1), left_out_rows=42 * (copies - 1))


def test_a_copy_moves_no_other_row_to_another_split() -> None:
    rows = SplitRows(temperature=5, tune=10, certify=15, test=12)
    source = source_with_copies(1)
    order = np.random.default_rng(0).permutation(60)
    images_NCHW = source.images_NCHW.copy()
    images_NCHW[order[50]] = images_NCHW[order[0]]  # a train row becomes a copy of a test row
    copied = RawDataset("copies", source.labels, images_NCHW, source.truth_N, official_test=None)

    before, after = (cut(each, split_seed=0, rows=rows) for each in (source, copied))
    for name in ("temperature", "tune", "certify", "test"):
        assert before.splits[name].digest == after.splits[name].digest
    assert len(after.train) == len(before.train) - 1
    assert after.repeats.left_out_rows == 1


def test_the_splits_of_digits_are_those_of_a_plain_permutation() -> None:
    shuffled = np.random.default_rng(0).permutation(1797)
    rows = np.split(shuffled, np.cumsum([360, 200, 200, 100]))
    digests = [hashlib.sha256(np.sort(part).astype("<i8").tobytes()).hexdigest() for part in rows]

    splits = cut_digits().splits
    assert [splits[name].digest for name in ("test", "certify", "tune", "temperature", "train")] == digests


def test_too_few_different_images_are_refused_with_both_counts() -> None:
    rows = SplitRows(temperature=15, tune=15, certify=15, test=15)
    message = r"more than the 60 rows .*, got 60 different images and 120 copies$"
    with pytest.raises(DatasetError, match=message):
        cut(source_with_copies(3), split_seed=0, rows=rows)


def test_a_cut_without_training_leaves_copies_out() -> None:
    dataset = cut_without_training(source_with_copies(3), split_seed=0)

    images = [number for split in dataset.splits.values() for number in images_of(split)]
    assert sorted(images) == list(range(60))
    assert dataset.repeats == Repeats(repeated_rows=120, left_out_rows=120)
