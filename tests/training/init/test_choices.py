"""The proposed settings: splits that can certify, and bounds that they can certify."""

from dataclasses import replace

import pytest

from training.data.repeats import NO_REPEATS, Repeats
from training.data.summary import ClassSize, DataSummary
from training.errors import RecipeError
from training.exits.certify import allowed_losses, fewest_rows
from training.init.choices import (
    DELTA,
    EPSILONS,
    Choice,
    choose_augmentation,
    choose_network,
    choose_points,
    choose_splits,
    epsilons,
)

DATA = DataSummary(
    rows=4_000,
    image_shape=(1, 28, 28),
    classes=10,
    smallest_class=ClassSize("1", 380),
    largest_class=ClassSize("9", 420),
    test_rows=1_000,
    repeats=NO_REPEATS,
)


def values(data: DataSummary) -> dict[str, int]:
    return {choice.key.removeprefix("dataset."): choice.value for choice in choose_splits(data)}


def test_most_rows_train_the_network() -> None:
    assert values(DATA) == {"temperature_rows": 240, "tune_rows": 480, "certify_rows": 1_000}


def test_without_official_test_rows_a_fifth_is_the_test_split() -> None:
    assert values(replace(DATA, test_rows=None))["test_rows"] == 800


def test_large_datasets_keep_splits_of_limited_size() -> None:
    assert values(replace(DATA, rows=1_000_000, test_rows=None)) == {
        "test_rows": 10_000,
        "temperature_rows": 2_000,
        "tune_rows": 3_000,
        "certify_rows": 5_000,
    }


def test_repeated_images_are_not_counted() -> None:
    repeated = replace(DATA, repeats=Repeats(repeated_rows=2_000))
    assert values(repeated)["certify_rows"] == 500


def test_too_few_rows_are_refused_with_both_numbers() -> None:
    with pytest.raises(RecipeError, match="expected at least 200 different images, got 199"):
        values(replace(DATA, rows=199))


@pytest.mark.parametrize(
    ("certify_rows", "expected"),
    [(5_000, 0.01), (2_000, 0.01), (1_999, 0.02), (1_000, 0.02), (400, 0.05), (200, 0.1), (50, 0.1)],
)
def test_the_bound_of_balanced_is_the_strictest_that_the_certify_rows_support(
    certify_rows: int, expected: float
) -> None:
    assert epsilons(certify_rows)[0] == expected


@pytest.mark.parametrize("certify_rows", [50, 200, 400, 667, 1_000, 2_000])
def test_every_proposed_bound_can_be_certified(certify_rows: int) -> None:
    assert all(fewest_rows(epsilon, DELTA) <= certify_rows for epsilon in epsilons(certify_rows))


def test_a_proposed_bound_allows_at_least_half_of_it_to_differ() -> None:
    for balanced, _ in EPSILONS[:-1]:
        rows = round(20 / balanced)
        assert allowed_losses(rows, balanced, DELTA) >= 0.5 * balanced * rows


def test_a_weaker_bound_names_the_rows_that_the_strictest_needs() -> None:
    reasons = {choice.key: choice.reason for choice in choose_points(1_000)}
    assert reasons["operating_points.balanced.epsilon"] == (
        "12 of the 1,000 certify rows may differ from the full network; about 2,000 would be needed for 0.01"
    )


@pytest.mark.parametrize(("shape", "padding"), [((1, 28, 28), 2), ((3, 64, 48), 3), ((1, 8, 8), 0)])
def test_crops_move_images_by_a_fourteenth_of_the_shorter_side(
    shape: tuple[int, int, int], padding: int
) -> None:
    crop, flip = choose_augmentation(shape)
    assert (crop.key, crop.value) == ("augmentation.crop_padding", padding)
    assert flip == Choice("augmentation.flip", False, flip.reason)


@pytest.mark.parametrize(
    ("shape", "stages"),
    [
        ((1, 8, 8), 3),
        ((1, 28, 28), 3),
        ((3, 32, 32), 3),
        ((3, 64, 48), 4),
        ((3, 96, 96), 4),
        ((3, 224, 224), 5),
        ((1, 4, 4), 3),
    ],
)
def test_larger_images_get_more_stages(shape: tuple[int, int, int], stages: int) -> None:
    chosen = {choice.key: choice.value for choice in choose_network(shape, 16)}
    assert chosen == {"architecture.name": "residual", "architecture.exits": stages, "architecture.width": 16}
