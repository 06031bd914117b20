"""The estimate of a run's duration, for published data and for the user's own."""

from typing import Literal

import pytest

from training.data.registry import DATASETS, DatasetSize
from training.data.splits import Dataset
from training.estimates import training_time
from training.estimates.release_time import STAGE_EXPORT_SECONDS, release_seconds
from training.estimates.split_sizes import registered_size, split_sizes
from training.estimates.training_time import TimeEstimate, estimate_time, generation_seconds
from training.recipe.recipe import Recipe
from training.recipe.settings import BaselinesSection, ExitsSection

OWN_SIZE = DatasetSize(rows=900, image_shape=(3, 12, 12), classes=4)


def test_the_sizes_of_registered_data_are_those_of_the_loaded_splits(
    tiny_recipe: Recipe, digits: Dataset
) -> None:
    size = registered_size(tiny_recipe)
    assert size == DATASETS["digits"].size
    assert size is not None
    assert split_sizes(tiny_recipe, size) == split_sizes(tiny_recipe, digits)


@pytest.mark.parametrize("train", ["joint", "frozen"])
def test_every_part_of_a_run_on_own_data_is_estimated(
    tiny_recipe: Recipe, train: Literal["joint", "frozen"]
) -> None:
    recipe = tiny_recipe.model_copy(
        update={"exits": ExitsSection(train=train), "baselines": BaselinesSection(static=True)}
    )

    estimate = estimate_time(recipe, OWN_SIZE)

    assert estimate.epochs == recipe.schedule.epochs
    assert len(estimate.epoch_seconds) == recipe.generations.count
    assert estimate.baseline_epoch_seconds == 2 * estimate.epoch_seconds[0]
    assert min(*estimate.epoch_seconds, estimate.release_seconds) > 0


def test_the_total_is_the_sum_of_the_parts() -> None:
    estimate = TimeEstimate(
        epochs=10, epoch_seconds=(2.0, 3.0), baseline_epoch_seconds=4.0, release_seconds=5.0
    )
    assert estimate.total_seconds == 10 * (2 + 3 + 4) + 5


@pytest.mark.parametrize(("seconds", "epochs"), [(4.9, 0), (13.9, 0), (14.0, 1), (95.0, 10), (103.9, 10)])
def test_the_largest_number_of_epochs_that_fits_into_a_time(seconds: float, epochs: int) -> None:
    estimate = TimeEstimate(
        epochs=7, epoch_seconds=(2.0, 3.0), baseline_epoch_seconds=4.0, release_seconds=5.0
    )
    assert estimate.epochs_within(seconds) == epochs


def test_each_generation_has_its_own_estimate(tiny_recipe: Recipe, digits: Dataset) -> None:
    assert len(generation_seconds(tiny_recipe, digits)) == tiny_recipe.generations.count


def test_an_epoch_takes_the_time_of_all_its_steps(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_time, "_shortest_step_seconds", lambda *_: 0.5)
    monkeypatch.setattr(training_time, "release_seconds", lambda *_: 7.0)

    estimate = estimate_time(tiny_recipe, OWN_SIZE)

    train_rows = 900 - 100 - 200 - 200 - 360  # the sizes of the tiny recipe's splits
    steps = -(-train_rows // tiny_recipe.schedule.batch_rows)
    assert estimate.epoch_seconds == (0.5 * steps,) * tiny_recipe.generations.count
    assert estimate.total_seconds == tiny_recipe.schedule.epochs * sum(estimate.epoch_seconds) + 7.0


def test_attached_exits_take_time_after_training(tiny_recipe: Recipe, digits: Dataset) -> None:
    sizes = split_sizes(tiny_recipe, digits)
    joint, frozen = (
        release_seconds(tiny_recipe.model_copy(update={"exits": ExitsSection(train=train)}), sizes)
        for train in ("joint", "frozen")
    )
    exports_less = tiny_recipe.generations.count * STAGE_EXPORT_SECONDS * 2  # frozen exports one stage
    assert frozen + exports_less > joint + 0.5
