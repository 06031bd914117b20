"""One epoch of training on one device, of random images in the shape of the recipe's dataset."""

import os
import time

import torch

from bench.gpu.record import EpochTime
from training.born_again.precision import Precision
from training.born_again.reproducible import reproducible
from training.data.registry import DATASETS
from training.recipe.recipe import load_recipe
from training.run.estimate import random_dataset
from training.run.from_recipe import make_fit, make_network

RECIPE = "fashion-mnist"


def epoch(device: torch.device, rows: int, threads: int) -> EpochTime:
    """Train the recipe's first generation for an epoch, after a few steps that are not timed."""
    recipe = load_recipe(RECIPE)
    extent = DATASETS[recipe.dataset.name].extent
    assert extent is not None, "the released recipe's dataset has a known shape"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as `python -m training` does
    precision = Precision.choose(recipe.schedule.precision, device)
    dataset = random_dataset(extent, rows)
    few = random_dataset(extent, 2 * recipe.schedule.batch_rows)
    for each in (few, dataset):
        fit = make_fit(0, make_network(recipe, each), [], each.train, few.tune, recipe, precision)
        with reproducible(threads=threads, device=device):
            begun = time.perf_counter()
            fit.run_epoch(lambda: None)  # ends with figures on the host, so the device has ended too
            seconds = time.perf_counter() - begun
    return EpochTime(
        device=device.type,
        precision=str(precision),
        rows=rows,
        steps=fit.steps_per_epoch,
        seconds=round(seconds, 3),
    )
