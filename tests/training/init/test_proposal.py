"""The network and the number of epochs that fit into a time, and the warnings about the data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.init.test_choices import DATA
from training.data.digits import load_digits
from training.data.registry import DatasetSize
from training.data.summary import ClassSize
from training.errors import RecipeError
from training.estimates.training_time import TimeEstimate
from training.init import proposal
from training.init.choices import Choice, choose_splits
from training.init.source import OwnDataset
from training.recipe.recipe import Recipe

SIZE = DatasetSize(DATA.rows, DATA.image_shape, DATA.classes)
FIXED = [Choice("model", "own"), Choice("dataset.name", "npz"), Choice("dataset.file", "own.npz")]
RELEASE_SECONDS = 40.0


def machine(seconds_at_32: float) -> Callable[[Recipe, DatasetSize], TimeEstimate]:
    """Return the estimates of a machine. seconds_at_32: of an epoch of a network with 32 channels."""

    def estimate(recipe: Recipe, size: DatasetSize) -> TimeEstimate:
        (width,) = recipe.architecture.width
        return TimeEstimate(
            epochs=recipe.schedule.epochs,
            epoch_seconds=(seconds_at_32 * (width / 32) ** 2,),
            baseline_epoch_seconds=0.0,
            release_seconds=RELEASE_SECONDS,
        )

    return estimate


@pytest.mark.parametrize(
    ("seconds_at_32", "width"), [(1.0, 32), (29.0, 32), (30.0, 24), (60.0, 16), (200.0, 8), (2_000.0, 8)]
)
def test_the_widest_network_with_15_epochs_in_10_minutes_is_proposed(
    seconds_at_32: float, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposal, "estimate_time", machine(seconds_at_32))
    network, estimate = proposal._fit_into(10.0, [*FIXED, *choose_splits(DATA)], SIZE, lambda _: None)
    assert {choice.key: choice.value for choice in network}["architecture.width"] == width
    assert estimate.epoch_seconds == (seconds_at_32 * (width / 32) ** 2,)


def test_widths_that_are_certainly_too_slow_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(proposal, "estimate_time", machine(300.0))
    proposal._fit_into(10.0, FIXED, SIZE, said.append)
    assert [line.split()[-2] for line in said] == ["32", "8"]


def test_a_time_without_one_epoch_is_refused_with_the_time_that_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proposal, "estimate_time", machine(3_200.0))
    needed = (RELEASE_SECONDS + 200.0) / 0.8 / 60
    with pytest.raises(RecipeError, match=rf"at least {needed:.1f} for one epoch .*, got 4"):
        proposal._fit_into(4.0, FIXED, SIZE, lambda _: None)


@pytest.mark.parametrize(
    ("smallest", "largest", "expected"),
    [
        (19, 200, "class rare has 19 rows, too few"),
        (20, 201, "class common has 10 times the rows of class rare"),
        (20, 200, ""),
    ],
)
def test_small_and_unequal_classes_have_a_warning(smallest: int, largest: int, expected: str) -> None:
    data = replace(
        DATA, smallest_class=ClassSize("rare", smallest), largest_class=ClassSize("common", largest)
    )
    dataset = OwnDataset(Path("own.npz"), "npz", "file", None, load_digits())
    lines = list(proposal._warnings(dataset, data))
    assert len(lines) == bool(expected)
    assert expected in "".join(lines)


def test_resized_images_are_announced() -> None:
    dataset = OwnDataset(Path("photos"), "image-folder", "data_dir", 96, load_digits())
    (line,) = proposal._warnings(dataset, DATA)
    assert line.endswith("all are resized to 96 pixels a side")
