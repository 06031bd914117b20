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
from training.recipe.recipe import Recipe
from training.run.folder import RunFolder
from training.run.from_recipe import train as train_recipe

Train = Callable[[str, TrainingProgress], list[TrainedGeneration]]


class Interrupted(Exception):
    """Stands in for Ctrl-C."""


class StopsAfter(ProgressBar):
    """Quiet progress that interrupts training once so many steps, epochs or generations were told."""

    def __init__(self, told: str, count: int) -> None:
        super().__init__(quiet=True)
        self._told = told
        self._left = count

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        super().begin(generation, epochs=epochs, epochs_done=epochs_done, steps_per_epoch=steps_per_epoch)
        self._tell("generation")

    def step(self) -> None:
        self._tell("step")

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        super().epoch(epochs_done, epoch)
        self._tell("epoch")

    def _tell(self, what: str) -> None:
        self._left -= what == self._told
        if self._left == 0 and what == self._told:
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
    torch.manual_seed(12345)  # whatever the process drew before does not matter
    assert_bitwise_equal(first, train("second", ProgressBar(quiet=True)))


@pytest.mark.parametrize(
    ("told", "count"),
    # A generation has 8 steps an epoch and 2 epochs.
    [("step", 1), ("step", 11), ("step", 16), ("step", 20), ("epoch", 1), ("epoch", 2), ("generation", 2)],
)
def test_an_interrupted_run_resumes_to_bitwise_the_same_weights(train: Train, told: str, count: int) -> None:
    with pytest.raises(Interrupted):
        train("resumed", StopsAfter(told, count))
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


def test_a_later_generation_starts_afresh_and_learns_from_its_teacher(train: Train) -> None:
    first, second = train("run", ProgressBar(quiet=True))
    assert not torch.equal(
        first.network.heads[0].classifier.weight, second.network.heads[0].classifier.weight
    )
    assert second.history[0].loss != first.history[0].loss


def test_each_generation_and_each_recipe_seed_draws_its_own_streams() -> None:
    seeds = [generation_seeds(seed, generation) for seed in range(3) for generation in range(3)]
    assert len({number for each in seeds for number in astuple(each)}) == 36


def test_training_gives_pytorchs_settings_back(train: Train) -> None:
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


@pytest.mark.parametrize(("told", "count"), [("step", 5), ("epoch", 1), ("step", 21), ("epoch", 5)])
def test_a_run_with_every_method_resumes_to_bitwise_the_same_weights(
    tmp_path: Path, digits: Dataset, told: str, count: int
) -> None:
    # Augmentation, hints, a rising exit weight, and an ensemble that teaches by the one rule that draws.
    recipe = with_generations(golden_losses.RECIPE, count=3, rule="dkpp", teacher="ensemble")
    train = trainer(tmp_path, recipe, digits)
    with pytest.raises(Interrupted):
        train("resumed", StopsAfter(told, count))
    resumed = train("resumed", ProgressBar(quiet=True))
    assert_bitwise_equal(resumed, train("undisturbed", ProgressBar(quiet=True)))


def test_patience_stops_after_generations_that_gain_nothing_beyond_noise(
    tmp_path: Path, tiny_recipe: Recipe, digits: Dataset
) -> None:
    # A rate this small leaves every generation at its fresh weights: none can gain.
    still = tiny_recipe.model_copy(
        update={"schedule": tiny_recipe.schedule.model_copy(update={"learning_rate": 1e-12, "epochs": 1})}
    )
    impatient = trainer(tmp_path, with_generations(still, count=9, patience=2), digits)
    count = len(impatient("impatient", ProgressBar(quiet=True)))
    assert 3 <= count < 9
    again = impatient("impatient", ProgressBar(quiet=True))  # a resumed run stops at the same place
    assert len(again) == count


def test_an_ensemble_teaches_otherwise_than_the_generation_before(
    tmp_path: Path, tiny_recipe: Recipe, digits: Dataset
) -> None:
    def third_loss(teacher: str) -> float:
        recipe = with_generations(tiny_recipe, count=3, teacher=teacher)
        return trainer(tmp_path, recipe, digits)(teacher, ProgressBar(quiet=True))[2].history[0].loss

    assert third_loss("ensemble") != third_loss("previous")
