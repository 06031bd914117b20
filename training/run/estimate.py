"""How long a recipe trains on this machine, told from a few steps on random images of its dataset's shape.

Trains nothing that stays and loads no dataset. What follows the training (export, certificates, the
report) is not in it. Knows nothing of how the time is said.
"""

import time
from collections.abc import Iterator
from statistics import median

import numpy as np
import torch

from training.born_again.fit import Fit
from training.born_again.generations import TrainedGeneration, choose_training_device
from training.born_again.precision import Precision
from training.data.registry import DATASETS, DatasetSize
from training.data.splits import Dataset, Split
from training.recipe.recipe import Recipe
from training.run.from_recipe import make_fit, make_trained_network

WARM_UP_STEPS = 3
TIMED_STEPS = 5


def training_seconds(recipe: Recipe) -> float | None:
    """Estimate the seconds of all epochs of all networks; None for the user's own data.

    Networks without exits, where the recipe compares with them, are counted at what they take at most:
    the backbone as generation 0, the two narrow ones together as another.
    """
    seconds = generation_seconds(recipe)
    if seconds is None:
        return None
    return sum(seconds) + (2 * seconds[0] if recipe.baselines.static else 0.0)


def generation_seconds(recipe: Recipe) -> list[float] | None:
    """Estimate the seconds of all epochs of each generation; None for the user's own data."""
    extent = DATASETS[recipe.dataset.name].extent
    if extent is None:
        return None
    precision = Precision.choose(recipe.schedule.precision, choose_training_device())
    threads_before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        step_seconds = list(_step_seconds(recipe, extent, precision))
    finally:
        torch.set_num_threads(threads_before)
    section = recipe.dataset
    others = section.temperature_rows + section.tune_rows + section.certify_rows + (section.test_rows or 0)
    steps = recipe.schedule.epochs * -(-(extent.rows - others) // recipe.schedule.batch_rows)
    return [steps * each for each in step_seconds]


def _step_seconds(recipe: Recipe, extent: DatasetSize, precision: Precision) -> Iterator[float]:
    """Time a step of each generation; those with as many teachers take as long, and are timed once."""
    earlier: list[TrainedGeneration] = []
    seconds_of_teachers: dict[int, float] = {}
    for number in range(recipe.generations.count):
        teachers = len(earlier) if recipe.generations.teacher == "ensemble" else min(len(earlier), 1)
        rows = recipe.schedule.batch_rows * (WARM_UP_STEPS + TIMED_STEPS)
        dataset = random_dataset(extent, rows)
        network = make_trained_network(recipe, dataset)
        if teachers not in seconds_of_teachers:
            fit = make_fit(number, network, earlier, dataset.train, dataset.tune, recipe, precision)
            seconds_of_teachers[teachers] = _time(fit, network)
        yield seconds_of_teachers[teachers]
        earlier.append(TrainedGeneration(number, network.cpu().eval(), ()))


def _time(fit: Fit, network: torch.nn.Module) -> float:
    network.train()
    seconds = []
    for step, (images_BCHW, truth_B) in enumerate(fit.batches()):
        started = time.perf_counter()
        fit.step(step, images_BCHW, truth_B).item()  # waits for a device that works ahead
        if step >= WARM_UP_STEPS:
            seconds.append(time.perf_counter() - started)
    return median(seconds)


def random_dataset(extent: DatasetSize, rows: int) -> Dataset:
    """Draw images and labels of a dataset's shape; every split is the same rows."""
    rng = np.random.default_rng(0)
    images_NCHW = rng.integers(0, 256, (rows, *extent.image_shape), dtype=np.uint8)
    split = Split(images_NCHW, rng.integers(0, extent.classes, rows), digest="")
    labels = tuple(str(number) for number in range(extent.classes))
    return Dataset("random", labels, "", split, split, split, split, split, test_rows=None)
