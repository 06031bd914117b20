"""The settings that are proposed for a dataset, each with its reason.

The splits follow from what certificates need, the network from the size of the images, and the number of
epochs from the time that a few steps take on this machine.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from training.architectures.residual import FEWEST_EXITS, LARGEST_FULL_SIDE, MOST_EXITS
from training.data.summary import DataSummary
from training.errors import RecipeError
from training.exits.certify import allowed_losses

FEWEST_ROWS = 200
"""With fewer rows, fewer than 40 certify rows would remain, which certify nothing useful."""
CERTIFY_SHARE, TUNE_SHARE, TEMPERATURE_SHARE, TEST_SHARE = 0.25, 0.12, 0.06, 0.2
MOST_CERTIFY_ROWS, MOST_TUNE_ROWS, MOST_TEMPERATURE_ROWS, MOST_TEST_ROWS = 5_000, 3_000, 2_000, 10_000
EPSILONS = ((0.01, 0.03), (0.02, 0.05), (0.03, 0.08), (0.05, 0.1), (0.1, 0.2))
"""The bounds of `balanced` and `fast`, the strictest first."""
ROWS_TIMES_EPSILON = 20
"""Certify rows times epsilon for which a certificate allows about half of epsilon to differ."""
DELTA = 0.05
CROP_SHARE = 14
"""A crop moves by at most one part in so many of the side: 2 pixels of 28."""
LAST_SIDE = 8
"""Pixels of the last stage's shorter side, if the number of stages allows it."""
MOST_THREADS = 8


@dataclass(frozen=True)
class Choice:
    """A setting of a recipe."""

    key: str
    """Dotted, such as `schedule.epochs`."""
    value: Any
    reason: str = ""


def choose_splits(data: DataSummary) -> Iterator[Choice]:
    """Yield the sizes of the splits; raise RecipeError if the data have too few rows."""
    rows, official = data.distinct_rows, data.test_rows is not None
    if rows < FEWEST_ROWS:
        raise RecipeError(f"data: expected at least {FEWEST_ROWS} different images, got {rows}")
    if not official:
        test = _share(rows, TEST_SHARE, MOST_TEST_ROWS)
        yield Choice("dataset.test_rows", test, "measure the result; no choice uses them")
        rows -= test
    certify = _share(rows, CERTIFY_SHARE, MOST_CERTIFY_ROWS)
    yield Choice(
        "dataset.temperature_rows",
        _share(rows, TEMPERATURE_SHARE, MOST_TEMPERATURE_ROWS),
        "calibrate the confidences",
    )
    yield Choice("dataset.tune_rows", _share(rows, TUNE_SHARE, MOST_TUNE_ROWS), "choose exits and thresholds")
    yield Choice("dataset.certify_rows", certify, "certify; the network trains on all other rows")


def choose_points(certify_rows: int) -> Iterator[Choice]:
    """Yield the bounds that the certify split can certify."""
    balanced, fast = epsilons(certify_rows)
    for name, epsilon in (("balanced", balanced), ("fast", fast)):
        allowed = allowed_losses(certify_rows, epsilon, DELTA)
        reason = f"{allowed} of the {certify_rows:,} certify rows may differ from the full network"
        if name == "balanced" and balanced > EPSILONS[0][0]:
            needed = int(ROWS_TIMES_EPSILON / EPSILONS[0][0])
            reason += f"; about {needed:,} would be needed for {EPSILONS[0][0]}"
        yield Choice(f"operating_points.{name}.max_accuracy_loss", epsilon / 2, "on the tune rows")
        yield Choice(f"operating_points.{name}.epsilon", epsilon, reason)


def epsilons(certify_rows: int) -> tuple[float, float]:
    """Return the strictest bounds of `balanced` and `fast` that a certify split can certify well."""
    fitting = (pair for pair in EPSILONS if certify_rows * pair[0] >= ROWS_TIMES_EPSILON)
    return next(fitting, EPSILONS[-1])


def choose_augmentation(shape: Sequence[int]) -> Iterator[Choice]:
    """Yield the random changes to training images."""
    padding = min(shape[1:]) // CROP_SHARE
    pixels = "pixel" if padding == 1 else "pixels"
    moved = f"move images by at most {padding} {pixels}" if padding else "the images are too small to move"
    yield Choice("augmentation.crop_padding", padding, moved)
    yield Choice("augmentation.flip", False, "set true if the mirror image has the same class")


def choose_generations() -> Choice:
    """Return the number of generations."""
    return Choice(
        "generations.count",
        1,
        "with more, each learns from the one before and takes as long; published only if better",
    )


def choose_network(shape: Sequence[int], width: int) -> Iterator[Choice]:
    """Yield the architecture."""
    stages = _stages(shape)
    yield Choice("architecture.name", "residual", "stages of residual blocks")
    yield Choice(
        "architecture.exits",
        stages,
        f"stages; together they shrink images to about {LAST_SIDE} pixels a side",
    )
    yield Choice("architecture.width", width, "channels of the first stage; they double in each later one")


def _stages(shape: Sequence[int]) -> int:
    """Return the number of stages after which the shorter side has at most LAST_SIDE pixels, if possible."""
    side = min(shape[1:]) / (2 if max(shape[1:]) > LARGEST_FULL_SIDE else 1)
    halvings = max(0, math.ceil(math.log2(side / LAST_SIDE)))
    return min(max(FEWEST_EXITS, 1 + halvings), MOST_EXITS)


def choose_threads() -> Choice:
    """Return the number of PyTorch threads: one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Choice("threads", min(cores, MOST_THREADS), "PyTorch threads, one for each core")


def _share(rows: int, share: float, most: int) -> int:
    """Return a share of the rows, rounded to two digits, at most `most`."""
    exact = max(1, int(rows * share))
    unit: int = 10 ** max(0, len(str(exact)) - 2)
    return min(most, exact // unit * unit)
