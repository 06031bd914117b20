from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from training.data.augmentation import (
    change,
    crop,
    erase,
    flip,
    sample_boxes,
    sample_bytes,
    sample_changes,
    sample_crops,
    sample_flips,
)
from training.recipe.settings import AugmentationSection

OFF = AugmentationSection()
ALL = AugmentationSection(flip=True, crop_padding=4, erase_probability=0.5)
Array = np.ndarray[Any, Any]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(rows: int = 20, channels: int = 3, height: int = 6, width: int = 7) -> Tensor:
    shape = (rows, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(99))


def augment(images_BCHW: Tensor, settings: AugmentationSection, generator: torch.Generator) -> Tensor:
    """Sample on the CPU and change the images on their device, as a training step does."""
    changes = sample_changes(images_BCHW.shape, settings, generator)
    return change(
        images_BCHW, settings, {name: each.to(images_BCHW.device) for name, each in changes.items()}
    )


def test_flip_mirrors_the_chosen_rows_left_to_right() -> None:
    images, mirrored = random_images(), sample_flips(20, seeded())
    expected = images.numpy().copy()
    for row in range(20):
        if mirrored[row]:
            for x in range(7):
                expected[row, :, :, x] = images[row, :, :, 6 - x]
    np.testing.assert_array_equal(flip(images, mirrored), expected)


def test_crop_cuts_from_each_corner_of_the_zero_padded_image() -> None:
    images, padding = random_images(), 2
    corners = sample_crops(20, padding, seeded())
    expected = np.zeros_like(images.numpy())
    for row, (top, left) in enumerate(corners.tolist()):
        for y in range(6):
            for x in range(7):
                from_y, from_x = y + top - padding, x + left - padding
                if 0 <= from_y < 6 and 0 <= from_x < 7:
                    expected[row, :, y, x] = images[row, :, from_y, from_x]
    np.testing.assert_array_equal(crop(images, corners, padding), expected)


def test_erase_overwrites_each_box_and_nothing_else() -> None:
    images, boxes = random_images(), sample_boxes(20, 6, 7, 0.5, seeded())
    noise = sample_bytes(images.shape, seeded(1))
    expected = images.numpy().copy()
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        for y in range(top, top + height):
            for x in range(left, left + width):
                expected[row, :, y, x] = noise[row, :, y, x]
    np.testing.assert_array_equal(erase(images, boxes, noise), expected)


def test_all_three_are_applied_in_the_order_of_their_random_numbers() -> None:
    images, generator = random_images(), seeded()
    expected = flip(images, sample_flips(20, generator))
    expected = crop(expected, sample_crops(20, 4, generator), 4)
    boxes = sample_boxes(20, 6, 7, 0.5, generator)
    expected = erase(expected, boxes, sample_bytes(images.shape, generator))
    torch.testing.assert_close(augment(images, ALL, seeded()), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings",
    [
        ALL,
        AugmentationSection(flip=True),
        AugmentationSection(crop_padding=1),
        AugmentationSection(erase_probability=1.0),
    ],
)
def test_shape_and_datatype_are_kept_and_the_input_is_not_modified(settings: AugmentationSection) -> None:
    images = random_images()
    before = images.clone()
    augmented = augment(images, settings, seeded())
    assert (augmented.dtype, augmented.shape) == (torch.uint8, images.shape)
    assert torch.equal(images, before)
    assert not torch.equal(augmented, images)


def test_without_augmentation_images_and_generator_are_unchanged() -> None:
    images, generator = random_images(), seeded()
    before = generator.get_state()
    assert torch.equal(augment(images, OFF, generator), images)
    assert torch.equal(generator.get_state(), before)


def test_a_disabled_augmentation_samples_nothing() -> None:
    images = random_images()
    only_crops = augment(images, AugmentationSection(crop_padding=2), seeded())
    assert torch.equal(only_crops, crop(images, sample_crops(20, 2, seeded()), 2))


def test_a_seed_repeats_bitwise_also_under_deterministic_algorithms() -> None:
    images = random_images()
    first = augment(images, ALL, seeded(3))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        second = augment(images, ALL, seeded(3))
    finally:
        torch.use_deterministic_algorithms(before)
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images, ALL, seeded(4)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_seed_gives_the_same_images_on_a_gpu() -> None:
    on_gpu = augment(random_images().cuda(), ALL, seeded())
    assert torch.equal(on_gpu.cpu(), augment(random_images(), ALL, seeded()))


def assert_uniform(counts: Array) -> None:
    """Check that chi-squared is within five standard deviations of its mean."""
    expected = counts.sum() / len(counts)
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), len(counts) - 1
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


def test_half_of_the_rows_are_mirrored() -> None:
    assert_uniform(np.bincount(sample_flips(20_000, seeded()).numpy(), minlength=2))


def test_corners_of_crops_are_uniform() -> None:
    corners = sample_crops(40_000, 2, seeded()).numpy()
    assert_uniform(np.bincount(corners[:, 0] * 5 + corners[:, 1], minlength=25))


def test_noise_is_uniform_at_every_byte_of_a_word() -> None:
    noise = sample_bytes(torch.Size([50_000, 8]), seeded()).numpy()
    for byte in range(8):
        assert_uniform(np.bincount(noise[:, byte], minlength=256))


@pytest.mark.parametrize("rows", [1, 7, 8, 9])
def test_noise_has_shapes_that_are_not_a_multiple_of_a_word(rows: int) -> None:
    assert sample_bytes(torch.Size([rows, 1, 3, 3]), seeded()).shape == (rows, 1, 3, 3)


def test_boxes_lie_within_the_image_and_cover_the_stated_area() -> None:
    top, left, height, width = sample_boxes(20_000, 28, 40, 1.0, seeded()).unbind(1)
    assert int(top.min()) == int(left.min()) == 0
    assert (int((top + height).max()), int((left + width).max())) == (28, 40)
    share = height * width / (28 * 40)
    # Rounding a side to whole pixels moves the area by a little.
    assert 0.01 < float(share.min()) < 0.03
    assert 0.38 < float(share.max()) < 0.43
    assert float(share.mean()) == pytest.approx(0.21, abs=0.01)


def test_the_position_of_a_box_is_uniform() -> None:
    boxes = sample_boxes(100_000, 12, 12, 1.0, seeded()).numpy()
    for start, length in ((0, 2), (1, 3)):
        half_long = boxes[boxes[:, length] == 6, start]
        assert_uniform(np.bincount(half_long, minlength=7))


def test_the_aspect_of_a_box_is_uniform() -> None:
    _, _, height, width = sample_boxes(50_000, 1000, 1000, 1.0, seeded()).numpy().T
    uncut = (height < 1000) & (width < 1000) & (height * width < 0.3 * 1000**2)
    aspect = (height / width)[uncut]
    assert aspect.min() == pytest.approx(0.3, abs=0.01)
    assert aspect.max() == pytest.approx(1 / 0.3, abs=0.05)
    assert_uniform(np.histogram(aspect, bins=10, range=(0.3, 1 / 0.3))[0])


def test_the_stated_share_of_rows_has_a_box() -> None:
    boxes = sample_boxes(20_000, 28, 28, 0.25, seeded())
    erased = (boxes[:, 2] * boxes[:, 3] > 0).double()
    assert float(erased.mean()) == pytest.approx(0.25, abs=0.015)
    assert not sample_boxes(1000, 28, 28, 0.0, seeded())[:, 2:].any()


def test_the_smallest_image_can_be_erased_and_cropped() -> None:
    images = random_images(height=1, width=1)
    assert augment(images, ALL, seeded()).shape == images.shape
