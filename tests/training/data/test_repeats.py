from pathlib import Path

import numpy as np
import pytest

from training.data.registry import load_source
from training.data.repeats import ImageRows, Repeats, count_repeats
from training.data.section import DatasetSection
from training.data.summary import ClassSize, describe
from training.errors import DatasetError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
REPEATED = IMAGES[[0, 1, 2, 1, 0, 1]]


def test_every_row_has_the_first_row_with_an_equal_image() -> None:
    assert ImageRows(IMAGES).first_row_N.tolist() == [0, 1, 2, 3, 4, 5]
    assert ImageRows(REPEATED).first_row_N.tolist() == [0, 1, 2, 1, 0, 1]


def test_images_that_differ_in_one_pixel_are_not_equal() -> None:
    other = IMAGES.copy()
    other[0, 0, 0, 0] ^= 1

    assert ImageRows(IMAGES).find(other).tolist() == [-1, 1, 2, 3, 4, 5]


def test_a_row_of_other_images_is_found_by_its_content() -> None:
    assert ImageRows(REPEATED).find(IMAGES[[5, 1, 0]]).tolist() == [-1, 1, 0]


def test_repeats_conflicts_and_overlap_are_counted_with_their_first_pair() -> None:
    truth_N = np.array([0, 1, 0, 1, 1, 0])
    repeats = count_repeats(
        ImageRows(REPEATED), truth_N, IMAGES[[5, 2, 1]], lambda part, row: f"{part} row {row}"
    )

    assert repeats == Repeats(
        repeated_rows=3,
        conflicting_labels=2,
        first_conflict="train row 0 (label 0) equals train row 4 (label 1)",
        overlap_rows=2,
        first_overlap="test row 1 equals train row 2",
    )
    assert list(repeats.lines()) == [
        "rows with the image of an earlier row: 3",
        "images with several labels: 2, first: train row 0 (label 0) equals train row 4 (label 1)",
        "test rows that are also train rows: 2, first: test row 1 equals train row 2",
    ]


def save_overlapping(path: Path) -> None:
    images_NHW = np.random.default_rng(1).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    truth_N = np.arange(40) % 3
    np.savez(
        path,
        allow_pickle=False,
        x_train=images_NHW[:30],
        y_train=truth_N[:30],
        x_test=images_NHW[[30, 31, 7, 32, 29]],
        y_test=truth_N[[30, 31, 7, 32, 29]],
    )


def section(path: Path, *, allow_overlap: bool) -> DatasetSection:
    return DatasetSection(
        name="npz",
        file=str(path),
        temperature_rows=4,
        tune_rows=4,
        certify_rows=4,
        allow_overlap=allow_overlap,
    )


def test_test_rows_that_are_train_rows_are_refused_with_counts_and_the_first_pair(tmp_path: Path) -> None:
    save_overlapping(tmp_path / "own.npz")
    with pytest.raises(
        DatasetError,
        match=r"got 2 of 5 that are, first: row 2 of x_test equals row 7 of x_train; "
        r"remove them, or set dataset.allow_overlap = true$",
    ):
        section(tmp_path / "own.npz", allow_overlap=False).load()


def test_allowed_overlap_is_kept_and_reported(tmp_path: Path) -> None:
    save_overlapping(tmp_path / "own.npz")
    dataset = section(tmp_path / "own.npz", allow_overlap=True).load()

    assert (len(dataset.train), len(dataset.test)) == (18, 5)
    assert dataset.repeats.overlap_rows == 2


def test_a_summary_has_the_sizes_of_the_dataset(tmp_path: Path) -> None:
    save_overlapping(tmp_path / "own.npz")
    summary = describe(load_source("npz", file=str(tmp_path / "own.npz")))

    assert (summary.rows, summary.test_rows, summary.image_shape) == (30, 5, (1, 8, 8))
    assert (summary.classes, summary.repeats.overlap_rows) == (3, 2)


def test_a_summary_names_the_smallest_and_the_largest_class() -> None:
    summary = describe(load_source("digits"))

    assert (summary.smallest_class, summary.largest_class) == (ClassSize("8", 174), ClassSize("3", 183))
    assert summary.lines() == [
        "1,797 rows, no official test rows, 10 classes, images [1, 8, 8]",
        "smallest class 8: 174 rows; largest class 3: 183 rows",
    ]
