import numpy as np

from training.data.duplicates import duplicate_rows, first_duplicate

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)


def test_the_first_two_equal_images_are_returned() -> None:
    assert first_duplicate(IMAGES) is None
    assert first_duplicate(IMAGES[[0, 1, 2, 1, 0]]) == (1, 3)


def test_images_that_differ_in_one_pixel_are_not_equal() -> None:
    other = IMAGES.copy()
    other[0, 0, 0, 0] ^= 1

    assert first_duplicate(np.concatenate([IMAGES[:1], other[:1]])) is None
    assert duplicate_rows(IMAGES, other) == [1, 2, 3, 4, 5]


def test_duplicate_rows_are_row_numbers_of_the_second_array() -> None:
    assert duplicate_rows(IMAGES[:3], IMAGES[[5, 2, 4, 0]]) == [1, 3]
