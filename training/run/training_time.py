"""Estimates how long a recipe trains on this machine, from a few steps on random images.

Loads no dataset. The estimate does not include export, certification and the report.
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
    """Estimate the seconds to train all networks of a recipe; return None for the user's own data.

    The three baselines take at most twice as long as the first generation: once for the backbone, and once
    for both narrow networks.
    """
    seconds = generation_seconds(recipe)
    if seconds is None:
        return None
    return sum(seconds) + (2 * seconds[0] if recipe.baselines.static else 0.0)


def generation_seconds(recipe: Recipe) -> list[float] | None:
    """Estimate the seconds to train each generation; return None for the user's own data."""
    size = DATASETS[recipe.dataset.name].size
    if size is None:
        return None
    precision = Precision.choose(recipe.schedule.precision, choose_training_device())
    threads_before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        step_seconds = list(_step_seconds(recipe, size, precision))
    finally:
        torch.set_num_threads(threads_before)
    section = recipe.dataset
    held_out = section.temperature_rows + section.tune_rows + section.certify_rows + (section.test_rows or 0)
    steps = recipe.schedule.epochs * -(-(size.rows - held_out) // recipe.schedule.batch_rows)
    return [steps * seconds for seconds in step_seconds]


def _step_seconds(recipe: Recipe, size: DatasetSize, precision: Precision) -> Iterator[float]:
    """Yield the seconds of a step of each generation. They depend only on the number of teachers."""
    earlier: list[TrainedGeneration] = []
    seconds_of_teachers: dict[int, float] = {}
    for number in range(recipe.generations.count):
        teachers = len(earlier) if recipe.generations.teacher == "ensemble" else min(len(earlier), 1)
        rows = recipe.schedule.batch_rows * (WARM_UP_STEPS + TIMED_STEPS)
        dataset = random_dataset(size, rows)
        network = make_trained_network(recipe, dataset)
        if teachers not in seconds_of_teachers:
            fit = make_fit(number, network, earlier, dataset.train, dataset.tune, recipe, precision)
            seconds_of_teachers[teachers] = _median_step_seconds(fit, network)
        yield seconds_of_teachers[teachers]
        earlier.append(TrainedGeneration(number, network.cpu().eval(), ()))


def _median_step_seconds(fit: Fit, network: torch.nn.Module) -> float:
    network.train()
    seconds = []
    for step, (images_BCHW, truth_B) in enumerate(fit.batches()):
        started = time.perf_counter()
        fit.step(step, images_BCHW, truth_B).item()  # waits until a GPU has finished the step
        if step >= WARM_UP_STEPS:
            seconds.append(time.perf_counter() - started)
    return median(seconds)


def random_dataset(size: DatasetSize, rows: int) -> Dataset:
    """Return random images and labels of a dataset's shape. Every split has the same rows."""
    rng = np.random.default_rng(0)
    images_NCHW = rng.integers(0, 256, (rows, *size.image_shape), dtype=np.uint8)
    split = Split(images_NCHW, rng.integers(0, size.classes, rows), digest="")
    labels = tuple(str(number) for number in range(size.classes))
    return Dataset("random", labels, "", split, split, split, split, split, test_rows=None)
