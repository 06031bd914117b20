"""Estimates the duration of a run on this machine, from a few real steps on random images.

`training.estimates.release_time` estimates the steps after training.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from training.born_again import cuda_step
from training.born_again.fit import Fit
from training.born_again.generations import TrainedGeneration, choose_training_device
from training.born_again.precision import Precision
from training.data.registry import DatasetSize
from training.data.splits import Dataset
from training.estimates.release_time import release_seconds
from training.estimates.split_sizes import PlannedSplits, random_dataset, split_sizes
from training.pipeline.from_recipe import make_fit, make_trained_network
from training.recipe.recipe import Recipe

WARM_UP_STEPS = cuda_step.WARM_UP_STEPS + 1
"""On CUDA, the last of them captures the step."""
FEWEST_TIMED_STEPS, MOST_TIMED_STEPS = 2, 12
TIMED_SECONDS = 0.3
"""Steps are timed for this long, between FEWEST_TIMED_STEPS and MOST_TIMED_STEPS of them.

If the first step on a CPU takes longer, it is the only one to warm up.
"""
BASELINE_COST = 2.0
"""The three baselines take at most as long as two generations without a teacher: one for the backbone, and
one for both narrow networks."""


@dataclass(frozen=True)
class TimeEstimate:
    """Estimated seconds of a run, by part."""

    epochs: int
    """Epochs of each generation."""
    epoch_seconds: tuple[float, ...]
    """One epoch of each generation."""
    baseline_epoch_seconds: float
    """One epoch of all baselines together; 0 if the recipe trains none."""
    release_seconds: float
    """Everything after training; independent of the number of epochs."""

    @property
    def total_seconds(self) -> float:
        """The whole run."""
        return self.epochs * self._seconds_per_epoch + self.release_seconds

    def epochs_within(self, seconds: float) -> int:
        """Return the largest number of epochs with which the whole run fits into a time; 0 if none does."""
        return max(0, int((seconds - self.release_seconds) / self._seconds_per_epoch))

    @property
    def _seconds_per_epoch(self) -> float:
        return sum(self.epoch_seconds) + self.baseline_epoch_seconds


def estimate_time(recipe: Recipe, data: DatasetSize | Dataset) -> TimeEstimate:
    """Estimate the duration of a run by running a few steps of each of its parts."""
    sizes = split_sizes(recipe, data)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        epoch_seconds = _epoch_seconds(recipe, sizes)
        after_training = release_seconds(recipe, sizes)
    finally:
        torch.set_num_threads(threads_before)
    return TimeEstimate(
        epochs=recipe.schedule.epochs,
        epoch_seconds=epoch_seconds,
        baseline_epoch_seconds=BASELINE_COST * epoch_seconds[0] if recipe.baselines.static else 0.0,
        release_seconds=after_training,
    )


def generation_seconds(recipe: Recipe, data: DatasetSize | Dataset) -> list[float]:
    """Estimate the seconds to train each generation."""
    estimate = estimate_time(recipe, data)
    return [estimate.epochs * seconds for seconds in estimate.epoch_seconds]


def _epoch_seconds(recipe: Recipe, sizes: PlannedSplits) -> tuple[float, ...]:
    precision = Precision.choose(recipe.schedule.precision, choose_training_device())
    steps = -(-sizes.train // recipe.schedule.batch_rows)
    return tuple(steps * seconds for seconds in _step_seconds(recipe, sizes, precision))


def _step_seconds(recipe: Recipe, sizes: PlannedSplits, precision: Precision) -> Iterator[float]:
    """Yield the seconds of a step of each generation. They depend only on the number of teachers."""
    earlier: list[TrainedGeneration] = []
    seconds_of_teachers: dict[int, float] = {}
    dataset = random_dataset(sizes, recipe.schedule.batch_rows)
    for number in range(recipe.generations.count):
        teachers = len(earlier) if recipe.generations.teacher == "ensemble" else min(len(earlier), 1)
        network = make_trained_network(recipe, dataset)
        if teachers not in seconds_of_teachers:
            fit = make_fit(number, network, earlier, dataset.train, dataset.tune, recipe, precision)
            seconds_of_teachers[teachers] = _shortest_step_seconds(fit, network)
        yield seconds_of_teachers[teachers]
        earlier.append(TrainedGeneration(number, network.cpu().eval(), ()))


def _shortest_step_seconds(fit: Fit, network: torch.nn.Module) -> float:
    """Return the seconds of the shortest step, which other processes disturb least."""
    network.train()
    is_cuda = next(network.parameters()).is_cuda
    seconds: list[float] = []
    warm_up_steps = WARM_UP_STEPS
    batches = itertools.chain.from_iterable(fit.batches() for _ in range(WARM_UP_STEPS + MOST_TIMED_STEPS))
    for step, batch in enumerate(batches):
        started = time.perf_counter()
        fit.step(step, batch).item()  # waits until a GPU has finished the step
        elapsed = time.perf_counter() - started
        if step == 0 and elapsed > TIMED_SECONDS and not is_cuda:
            warm_up_steps = 1
        if step >= warm_up_steps:
            seconds.append(elapsed)
        if len(seconds) >= FEWEST_TIMED_STEPS and sum(seconds) >= TIMED_SECONDS:
            break
    return min(seconds)
