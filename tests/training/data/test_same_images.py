import numpy as np

from training.data.same_images import first_pair, rows_also_in

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)


def test_the_first_image_that_was_there_before_is_named_with_the_row_it_repeats() -> None:
    assert first_pair(IMAGES) is None
    assert first_pair(IMAGES[[0, 1, 2, 1, 0]]) == (1, 3)


def test_a_single_pixel_makes_another_image() -> None:
    other = IMAGES.copy()
    other[0, 0, 0, 0] ^= 1

    assert first_pair(np.concatenate([IMAGES[:1], other[:1]])) is None
    assert rows_also_in(IMAGES, other) == [1, 2, 3, 4, 5]


def test_rows_that_are_among_known_ones_are_told_by_their_own_numbers() -> None:
    assert rows_also_in(IMAGES[:3], IMAGES[[5, 2, 4, 0]]) == [1, 3]
