from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.repository.manifest import TensorSpec
from training.attach.network.layout import ImageAxes
from training.attach.rows import augmentation
from training.attach.rows.augmentation import AugmentedRows
from training.attach.rows.rows import Rows, read_rows

IMAGES = {"image": (2, 3)}
HEADS = np.arange(10, 30)


def rows_of(folder: Path, array: NDArray[Any], datatype: str) -> Rows:
    np.savez(folder / "rows.npz", allow_pickle=False, x=array)
    spec = TensorSpec(name="image", datatype=datatype, shape=(-1, *array.shape[1:]))  # type: ignore[arg-type]
    return read_rows(folder / "rows.npz", [spec])


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    array = np.random.default_rng(0).integers(0, 256, (50, 1, 14, 28)).astype(np.uint8)
    return rows_of(tmp_path, array, "UINT8")


def augment(rows: Rows, images: ImageAxes = {}, seed: int = 1) -> AugmentedRows:  # noqa: B006 - not changed
    return AugmentedRows.of(rows, HEADS, images, seed, multiply_adds=1)


@pytest.mark.parametrize(("images", "copies"), [({}, 160), (IMAGES, 320)])
def test_copies_follow_the_rows(rows: Rows, images: ImageAxes, copies: int) -> None:
    augmented = augment(rows, images)

    assert (len(augmented), augmented.copies) == (50 + copies, copies)
    assert augmented.training_N.tolist() == [*range(10, 30), *range(50, 50 + copies)]
    assert np.array_equal(augmented.batch(0, 50)["image"], rows.inputs["image"])


def test_head_rows_and_copies_have_one_limit(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "MOST_TRAINING_ROWS", 33)

    assert augment(rows).copies == 13


def test_a_costly_network_gets_fewer_copies(rows: Rows) -> None:
    tenth = augmentation.MOST_MULTIPLY_ADDS // 10

    assert AugmentedRows.of(rows, HEADS, {}, 1, multiply_adds=tenth).copies == 10


def test_a_mixture_lies_between_two_head_rows_nearer_to_the_first(rows: Rows) -> None:
    image = rows.inputs["image"].astype(float)

    for number, mixture in enumerate(augment(rows).batch(50, 210)["image"].astype(float)):
        first = image[HEADS[number % len(HEADS)]]
        between = [
            np.all(
                (mixture >= np.minimum(first, second) - 0.5) & (mixture <= np.maximum(first, second) + 0.5)
            )
            and np.all(abs(mixture - first) <= abs(second - first) / 2 + 0.5)
            for second in image[HEADS]
        ]
        assert any(between)


def shifted_by_hand(image_HW: NDArray[Any], down: int, right: int, *, mirrored: bool) -> NDArray[Any]:
    height, width = image_HW.shape
    result = np.empty_like(image_HW)
    for y in range(height):
        for x in range(width):
            from_x = width - 1 - x if mirrored else x
            source_y, source_x = y - down, from_x - right
            result[y, x] = image_HW[
                min(max(source_y, 0), height - 1),
                min(max(source_x, 0), width - 1),
            ]
    return result


def possible_shifts(image_HW: NDArray[Any]) -> dict[bytes, tuple[int, int, bool]]:
    return {
        shifted_by_hand(image_HW, down, right, mirrored=mirrored).tobytes(): (down, right, mirrored)
        for down in (-1, 0, 1)
        for right in (-2, -1, 0, 1, 2)
        for mirrored in (False, True)
    }


def test_every_second_pass_shifts_images_by_at_most_a_fourteenth(rows: Rows) -> None:
    image = rows.inputs["image"][:, 0]

    copies = augment(rows, IMAGES).batch(50, 370)["image"][:, 0].reshape(16, len(HEADS), 14, 28)

    seen = {
        possible_shifts(image[head])[copy.tobytes()]
        for pass_copies in copies[1::2]
        for head, copy in zip(HEADS, pass_copies, strict=True)
    }
    assert {down for down, _, _ in seen} == {-1, 0, 1}
    assert {right for _, right, _ in seen} == {-2, -1, 0, 1, 2}
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def test_the_other_passes_are_mixtures(rows: Rows) -> None:
    image = rows.inputs["image"][:, 0]

    copies = augment(rows, IMAGES).batch(50, 370)["image"][:, 0].reshape(16, len(HEADS), 14, 28)

    for pass_copies in copies[::2]:
        shifted = [
            copy.tobytes() in possible_shifts(image[head])
            for head, copy in zip(HEADS, pass_copies, strict=True)
        ]
        assert sum(shifted) <= 3  # a row may be mixed with itself


def test_images_with_channels_last_are_shifted_equally(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (50, 3, 14, 28)).astype(np.uint8)
    first = augment(rows_of(tmp_path, array, "UINT8"), IMAGES).batch(50, 210)["image"]

    last = augment(rows_of(tmp_path, np.moveaxis(array, 1, 3), "UINT8"), {"image": (1, 2)})

    assert np.array_equal(np.moveaxis(last.batch(50, 210)["image"], 3, 1), first)


def test_batches_have_the_same_rows_wherever_they_start(rows: Rows) -> None:
    augmented = augment(rows, IMAGES)
    all_rows = augmented.batch(0, 210)["image"]

    assert all_rows.dtype == np.uint8
    for start, stop in ((45, 60), (49, 51), (50, 55), (208, 210)):
        assert np.array_equal(augmented.batch(start, stop)["image"], all_rows[start:stop])


def test_the_digest_depends_on_seed_head_rows_and_images(rows: Rows) -> None:
    digests = {
        AugmentedRows.of(rows, heads, images, seed, multiply_adds=1).inputs_digest
        for heads, images, seed in (
            (HEADS, IMAGES, 1),
            (HEADS, IMAGES, 2),
            (HEADS + 1, IMAGES, 1),
            (HEADS, {}, 1),
            (HEADS, {"image": (1, 2)}, 1),
        )
    }

    assert len(digests) == 5


def test_floats_are_mixed_without_rounding(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), "FP32")

    mixture = augment(rows).batch(30, 60)["image"]

    assert mixture.dtype == np.float32
    assert not np.array_equal(np.rint(mixture), mixture)


def test_token_ids_are_not_altered(tmp_path: Path) -> None:
    augmented = augment(rows_of(tmp_path, np.arange(120).reshape(30, 4), "INT64"))

    assert (augmented.copies, augmented.training_N.tolist()) == (0, HEADS.tolist())
