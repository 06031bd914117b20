"""Warnings about results: their rules, and what they advise."""

import numpy as np
import pytest

from training.exits.intervals import Proportion
from training.recipe.recipe import Recipe
from training.recipe.settings import ExitsSection
from training.release import advice

NBSP = "\N{NO-BREAK SPACE}"


def frozen(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"exits": ExitsSection(train="frozen")})


def test_an_exit_near_chance_is_named_with_its_accuracy_and_a_better_head(tiny_recipe: Recipe) -> None:
    exits = [Proportion(200, 1000), Proportion(950, 1000)]

    (warning,) = advice.near_chance(exits, 0.114, tiny_recipe)

    assert warning == (
        f"exit 0 is right on 20{NBSP}% of 1,000 test rows; always answering the most frequent class gives "
        f'11.4{NBSP}%. Try exits.train = "frozen", or architecture.heads with a grid: '
        '{ kind = "linear", grid = 4 }'
    )


@pytest.mark.parametrize(
    ("right", "chance", "warns"),
    [
        (199, 0.1, True),  # below twice chance
        (201, 0.1, False),
        (620, 0.5, True),  # below a quarter of the way from chance to 100 %
        (630, 0.5, False),
        (920, 0.9, True),
        (930, 0.9, False),
    ],
)
def test_an_exit_must_be_well_above_the_most_frequent_class(
    tiny_recipe: Recipe, right: int, chance: float, warns: bool
) -> None:
    assert bool(list(advice.near_chance([Proportion(right, 1000)], chance, tiny_recipe))) == warns


def test_few_rows_whose_interval_includes_chance_are_a_warning(tiny_recipe: Recipe) -> None:
    assert list(advice.near_chance([Proportion(3, 10)], 0.11, tiny_recipe))
    assert not list(advice.near_chance([Proportion(30, 100)], 0.11, tiny_recipe))


def test_a_network_with_frozen_exits_is_not_advised_to_freeze_them(tiny_recipe: Recipe) -> None:
    exits = [Proportion(100, 1000), Proportion(950, 1000)]
    warnings = [
        *advice.near_chance(exits, 0.1, frozen(tiny_recipe)),
        *advice.small_saving("balanced", 1.0, frozen(tiny_recipe)),
    ]
    assert len(warnings) == 2
    assert all("frozen" not in warning for warning in warnings)


def test_a_final_exit_near_chance_is_a_warning_about_training(tiny_recipe: Recipe) -> None:
    (warning,) = advice.near_chance([Proportion(900, 1000), Proportion(100, 1000)], 0.1, tiny_recipe)
    assert warning.startswith("final exit is right on 10")
    assert "check the labels" in warning


def test_the_most_frequent_class_of_the_truth() -> None:
    assert advice.largest_class_share(np.array([2, 0, 2, 1])) == 0.5


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.955, f"only 4.5{NBSP}% of the multiply-adds"), (1.0, "nothing"), (1.02, "nothing")],
)
def test_a_small_saving_is_a_warning(tiny_recipe: Recipe, share: float, text: str) -> None:
    (warning,) = advice.small_saving("balanced", share, tiny_recipe)
    assert warning.startswith(f'operating point "balanced" saves {text}. Try more certify rows')


def test_a_saving_of_a_tenth_is_no_warning(tiny_recipe: Recipe) -> None:
    assert not list(advice.small_saving("balanced", 0.9, tiny_recipe))


@pytest.mark.parametrize(
    ("train", "tune", "warns"),
    [
        (Proportion(2000, 2000), Proportion(900, 1000), True),
        (Proportion(1960, 2000), Proportion(9350, 10_000), False),  # a certain gap of 4.5 points
        (Proportion(100, 100), Proportion(47, 50), False),  # 6 points, but too few rows
    ],
)
def test_a_certain_gap_between_train_and_tune_is_a_warning(
    train: Proportion, tune: Proportion, warns: bool
) -> None:
    warnings = list(advice.overfitting(train, tune))
    assert bool(warnings) == warns
    if warns:
        assert "fewer epochs" in warnings[0]
