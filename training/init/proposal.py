"""Proposes a recipe for a dataset, so that the whole run fits into a number of minutes on this machine."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from serving.errors import shown
from training.data.registry import DatasetSize
from training.data.summary import DataSummary, describe
from training.errors import DatasetError, RecipeError
from training.estimates.training_time import TimeEstimate, estimate_time
from training.init.choices import (
    Choice,
    choose_augmentation,
    choose_generations,
    choose_network,
    choose_points,
    choose_splits,
    choose_threads,
)
from training.init.recipe_text import recipe_text
from training.init.source import OwnDataset
from training.recipe.recipe import Recipe, parse_recipe

TIME_SHARE = 0.8
"""Share of the time that is planned, because an estimate from a few steps is rough."""
WIDTHS = (32, 24, 16, 8)
"""Channels of the first stage that are tried, the most accurate network first."""
FEWEST_EPOCHS, MOST_EPOCHS = 15, 40
"""A narrower network is proposed if a wider one would have fewer. The lab notes compare 20 and 40 epochs."""
SECONDS_PER_MINUTE = 60
MAX_LINE = 500
_DATASET_REASONS = {"image_side": "pixels a side that all images are resized to"}


FEWEST_CLASS_ROWS = 20
MOST_IMBALANCE = 10
"""Above this ratio of the largest to the smallest class, a proposal has a warning."""


@dataclass(frozen=True)
class Proposal:
    """A proposed recipe, with a reason for each setting."""

    facts: tuple[str, ...]
    """Lines about the data, with warnings."""
    text: str
    """The recipe as TOML, with a comment for each setting."""
    recipe: Recipe
    seconds: float
    """Estimated duration of the run."""


def propose(
    dataset: OwnDataset,
    model: str,
    recipe_folder: Path,
    *,
    minutes: float,
    allow_overlap: bool = False,
    say: Callable[[str], None],
) -> Proposal:
    """Choose all settings for a dataset; raise RecipeError if it is too small or the time too short.

    recipe_folder: the folder that a relative path in the recipe begins at. say: receives lines of progress.
    """
    check_minutes(minutes)
    data = describe(dataset.source)
    if data.repeats.overlap_rows and not allow_overlap:
        raise DatasetError(
            f"{dataset.path}: expected test rows that are not train rows, got "
            f"{data.repeats.overlap_rows:,} of {data.test_rows:,} that are, first: "
            f"{data.repeats.first_overlap}; remove them, or add --allow-overlap"
        )
    fixed = [Choice("model", model), choose_threads()]
    fixed += [
        Choice(f"dataset.{key}", value, _DATASET_REASONS.get(key, ""))
        for key, value in dataset.keys(recipe_folder).items()
    ]
    if data.repeats.overlap_rows:
        fixed.append(Choice("dataset.allow_overlap", True, "the test accuracy will be too high"))
    splits = list(choose_splits(data))
    certify_rows = next(choice.value for choice in splits if choice.key == "dataset.certify_rows")
    fixed += [*splits, *choose_augmentation(data.image_shape), choose_generations()]
    fixed += choose_points(certify_rows)
    size = DatasetSize(data.distinct_rows, data.image_shape, data.classes)
    network, estimate = _fit_into(minutes, fixed, size, say)
    epochs = min(estimate.epochs_within(_planned_seconds(minutes)), MOST_EPOCHS)
    reason = (
        f"about {estimate.epoch_seconds[0]:.1f} s each on this machine, and {estimate.release_seconds:.0f} s "
        "after training"
    )
    facts = tuple(shown(line, MAX_LINE) for line in (*data.lines(), *_warnings(dataset, data)))
    text = recipe_text([*fixed, *network, Choice("schedule.epochs", epochs, reason)], facts)
    seconds = replace(estimate, epochs=epochs).total_seconds
    return Proposal(facts, text, parse_recipe(text, recipe_folder), seconds)


def check_minutes(minutes: float) -> None:
    """Raise RecipeError unless the time is a positive number."""
    if not math.isfinite(minutes) or minutes <= 0:
        raise RecipeError(f"--minutes: expected a number above 0, got {minutes:g}")


def _fit_into(
    minutes: float, fixed: list[Choice], size: DatasetSize, say: Callable[[str], None]
) -> tuple[list[Choice], TimeEstimate]:
    """Return the widest network with FEWEST_EPOCHS epochs in the time; the narrowest if none has them."""
    widths = list(WIDTHS)
    while widths:
        width = widths.pop(0)
        network = list(choose_network(size.image_shape, width))
        say(f"measuring a few steps of a network with {width} channels")
        estimate = estimate_time(parse_recipe(recipe_text([*fixed, *network]), Path()), size)
        epochs = estimate.epochs_within(_planned_seconds(minutes))
        if epochs >= FEWEST_EPOCHS:
            return network, estimate
        # The cost grows with the square of the width. Skip widths that are certainly too slow.
        widths = [each for each in widths if epochs * (width / each) ** 2 >= FEWEST_EPOCHS] or widths[-1:]
    if epochs < 1:
        needed = (estimate.release_seconds + estimate.epoch_seconds[0]) / TIME_SHARE / SECONDS_PER_MINUTE
        raise RecipeError(
            f"--minutes: expected at least {needed:.1f} for one epoch of the smallest network, "
            f"got {minutes:g}"
        )
    return network, estimate


def _warnings(dataset: OwnDataset, data: DataSummary) -> Iterator[str]:
    """Yield a line if images are resized, and for class sizes that make a good result unlikely."""
    if dataset.image_side is not None:
        yield f"images have several sizes or are large; all are resized to {dataset.image_side} pixels a side"
    smallest, largest = data.smallest_class, data.largest_class
    if smallest.rows < FEWEST_CLASS_ROWS:
        yield f"warning: class {smallest.label} has {smallest.rows} rows, too few to learn or to measure"
    elif largest.rows > MOST_IMBALANCE * smallest.rows:
        yield (
            f"warning: class {largest.label} has {largest.rows / smallest.rows:.0f} times the rows of class "
            f"{smallest.label}; accuracy says little about small classes"
        )


def _planned_seconds(minutes: float) -> float:
    return minutes * SECONDS_PER_MINUTE * TIME_SHARE
