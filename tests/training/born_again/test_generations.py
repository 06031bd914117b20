from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from tests.training.born_again import golden_losses
from training.born_again.checkpoint import EpochResult
from training.born_again.generations import TrainedGeneration, generation_seeds
from training.born_again.progress import ProgressBar, TrainingProgress
from training.data.splits import Dataset
from training.pipeline.folder import RunFolder
from training.pipeline.from_recipe import train as train_recipe
from training.recipe.recipe import Recipe

Train = Callable[[str, TrainingProgress], list[TrainedGeneration]]


class Interrupted(Exception):
    """Raised instead of KeyboardInterrupt."""


class StopsAfter(ProgressBar):
    """Quiet progress that interrupts training after a number of steps, epochs or generations."""

    def __init__(self, unit: str, count: int) -> None:
        super().__init__(quiet=True)
        self._unit = unit
        self._left = count

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        super().begin(generation, epochs=epochs, epochs_done=epochs_done, steps_per_epoch=steps_per_epoch)
        self._count("generation")

    def step(self) -> None:
        self._count("step")

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        super().epoch(epochs_done, epoch)
        self._count("epoch")

    def _count(self, unit: str) -> None:
        self._left -= unit == self._unit
        if self._left == 0 and unit == self._unit:
            raise Interrupted


class Counts(ProgressBar):
    """Quiet progress that counts the epochs trained."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.epochs = 0

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        super().epoch(epochs_done, epoch)
        self.epochs += 1


def trainer(place: Path, recipe: Recipe, dataset: Dataset) -> Train:
    def train_in(folder: str, progress: TrainingProgress) -> list[TrainedGeneration]:
        run_folder = RunFolder(place / folder)
        run_folder.begin(recipe, dataset.digests)
        return train_recipe(recipe, dataset, run_folder, progress)

    return train_in


@pytest.fixture
def train(tmp_path: Path, tiny_recipe: Recipe, digits: Dataset) -> Train:
    return trainer(tmp_path, tiny_recipe, digits)


def with_generations(recipe: Recipe, **changes: object) -> Recipe:
    return recipe.model_copy(update={"generations": recipe.generations.model_copy(update=changes)})


def assert_bitwise_equal(left: list[TrainedGeneration], right: list[TrainedGeneration]) -> None:
    assert [each.history for each in left] == [each.history for each in right]
    for ours, theirs in zip(left, right, strict=True):
        state, other = ours.network.state_dict(), theirs.network.state_dict()
        assert [name for name in state if not torch.equal(state[name], other[name])] == []


def test_the_same_seed_gives_bitwise_the_same_weights(train: Train) -> None:
    first = train("first", ProgressBar(quiet=True))
    torch.manual_seed(12345)  # the global generator must not matter
    assert_bitwise_equal(first, train("second", ProgressBar(quiet=True)))


@pytest.mark.parametrize(
    ("unit", "count"),
    # A generation has 2 epochs of 8 steps.
    [("step", 1), ("step", 11), ("step", 16), ("step", 20), ("epoch", 1), ("epoch", 2), ("generation", 2)],
)
def test_an_interrupted_run_resumes_to_bitwise_the_same_weights(train: Train, unit: str, count: int) -> None:
    with pytest.raises(Interrupted):
        train("resumed", StopsAfter(unit, count))
    resumed = train("resumed", ProgressBar(quiet=True))
    assert_bitwise_equal(resumed, train("undisturbed", ProgressBar(quiet=True)))


@pytest.mark.parametrize(("step", "epochs_left"), [(8, 4), (9, 3), (17, 2), (32, 1)])
def test_an_interrupt_loses_at_most_one_epoch(train: Train, step: int, epochs_left: int) -> None:
    with pytest.raises(Interrupted):
        train("resumed", StopsAfter("step", step))
    counts = Counts()
    train("resumed", counts)
    assert counts.epochs == epochs_left


def test_a_finished_run_trains_nothing_again(train: Train) -> None:
    first = train("finished", ProgressBar(quiet=True))
    counts = Counts()
    assert_bitwise_equal(first, train("finished", counts))
    assert counts.epochs == 0


def test_a_later_generation_starts_with_fresh_weights_and_learns_from_its_teacher(train: Train) -> None:
    first, second = train("run", ProgressBar(quiet=True))
    assert not torch.equal(
        first.network.heads[0].classifier.weight, second.network.heads[0].classifier.weight
    )
    assert second.history[0].loss != first.history[0].loss


def test_each_generation_and_recipe_seed_has_its_own_seeds() -> None:
    seeds = [generation_seeds(seed, generation) for seed in range(3) for generation in range(3)]
    assert len({number for each in seeds for number in astuple(each)}) == 36


def test_training_restores_pytorchs_settings(train: Train) -> None:
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().sum(),
    )
    train("run", ProgressBar(quiet=True))
    after = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().sum(),
    )
    assert after == before


@pytest.mark.parametrize(("unit", "count"), [("step", 5), ("epoch", 1), ("step", 21), ("epoch", 5)])
def test_a_run_with_every_method_resumes_to_bitwise_the_same_weights(
    tmp_path: Path, digits: Dataset, unit: str, count: int
) -> None:
    # Augmentation, hints, a rising exit weight, and an ensemble with the only rule that uses random numbers.
    recipe = with_generations(golden_losses.RECIPE, count=3, rule="dkpp", teacher="ensemble")
    train = trainer(tmp_path, recipe, digits)
    with pytest.raises(Interrupted):
        train("resumed", StopsAfter(unit, count))
    resumed = train("resumed", ProgressBar(quiet=True))
    assert_bitwise_equal(resumed, train("undisturbed", ProgressBar(quiet=True)))


def test_patience_stops_after_generations_without_a_significant_gain(
    tmp_path: Path, tiny_recipe: Recipe, digits: Dataset
) -> None:
    # This learning rate keeps every generation at its fresh weights, so none can gain.
    still = tiny_recipe.model_copy(
        update={"schedule": tiny_recipe.schedule.model_copy(update={"learning_rate": 1e-12, "epochs": 1})}
    )
    impatient = trainer(tmp_path, with_generations(still, count=9, patience=2), digits)
    count = len(impatient("impatient", ProgressBar(quiet=True)))
    assert 3 <= count < 9
    again = impatient("impatient", ProgressBar(quiet=True))  # a resumed run stops after the same generation
    assert len(again) == count


def test_an_ensemble_teaches_differently_than_the_previous_generation(
    tmp_path: Path, tiny_recipe: Recipe, digits: Dataset
) -> None:
    def third_loss(teacher: str) -> float:
        recipe = with_generations(tiny_recipe, count=3, teacher=teacher)
        return trainer(tmp_path, recipe, digits)(teacher, ProgressBar(quiet=True))[2].history[0].loss

    assert third_loss("ensemble") != third_loss("previous")
