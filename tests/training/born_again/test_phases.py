"""`frozen-heads`: first the backbone, then the early heads. `frozen-then-joint`: then also all weights."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from serving.repository.repository import read_version
from tests.training.born_again.test_generations import Counts, Interrupted, StopsAfter
from tests.training.born_again.tiny_fit import make_fit
from training.architectures.head_settings import HeadSettings
from training.architectures.network import MultiExitNetwork
from training.born_again.phases import phases
from training.born_again.progress import ProgressBar, TrainingProgress
from training.born_again.teachers import Teachers
from training.data.splits import Dataset
from training.pipeline.folder import RunFolder
from training.pipeline.from_recipe import make_network, train
from training.pipeline.run import run
from training.recipe.recipe import Recipe
from training.recipe.settings import ExitsSection

Weights = dict[str, Tensor]


@pytest.fixture
def recipe(tiny_recipe: Recipe) -> Recipe:
    """Return a recipe with one epoch per phase. The heads have batch norm, which changes if they run."""
    heads = (HeadSettings(kind="separable"), HeadSettings(kind="separable"), HeadSettings())
    return tiny_recipe.model_copy(
        update={
            "exits": ExitsSection(train="frozen-then-joint"),
            "schedule": tiny_recipe.schedule.model_copy(update={"epochs": 3}),
            "architecture": tiny_recipe.architecture.model_copy(update={"heads": heads}),
        }
    )


def shortened(recipe: Recipe, train: str, epochs: int) -> Recipe:
    schedule = recipe.schedule.model_copy(update={"epochs": epochs})
    exits = ExitsSection.model_validate({"train": train})
    return recipe.model_copy(update={"exits": exits, "schedule": schedule})


def seeded_network(recipe: Recipe, digits: Dataset, seed: int) -> MultiExitNetwork:
    torch.manual_seed(seed)
    return make_network(recipe, digits)


def copied(network: MultiExitNetwork) -> Weights:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def changed(before: Weights, after: Weights) -> set[str]:
    """Return the names of the modules whose values changed, such as `heads.0`."""
    return {".".join(name.split(".")[:2]) for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("epochs", [3, 4, 5, 8, 25, 100])
def test_the_phases_share_the_epochs(epochs: int) -> None:
    found = phases("frozen-then-joint", epochs)
    assert [each.trains for each in found] == ["backbone", "early heads", "all"]
    assert all(each.epochs >= 1 for each in found)
    assert [each.first_epoch for each in found] == [0, found[0].epochs, found[0].epochs + found[1].epochs]
    assert sum(each.epochs for each in found) == epochs


@pytest.mark.parametrize("epochs", [2, 3, 112])
def test_frozen_heads_have_two_phases(epochs: int) -> None:
    backbone, heads = phases("frozen-heads", epochs)
    assert (backbone.trains, heads.trains) == ("backbone", "early heads")
    assert (backbone.first_epoch, heads.first_epoch) == (0, backbone.epochs)
    assert backbone.epochs + heads.epochs == epochs


@pytest.mark.parametrize("train", ["joint", "frozen"])
def test_other_values_have_one_phase(train: str) -> None:
    (only,) = phases(train, 8)
    assert (only.trains, only.first_epoch, only.epochs, only.peak_share) == ("all", 0, 8, 1.0)


def test_each_phase_changes_only_its_own_part(recipe: Recipe, digits: Dataset) -> None:
    network = seeded_network(recipe, digits, 0)
    fit = make_fit(network, digits, recipe)
    states = [copied(network)]
    for _ in range(3):
        fit.run_epoch(lambda: None)
        states.append(copied(network))
    stages = {"stages.0", "stages.1", "stages.2"}
    backbone, heads, together = (changed(before, after) for before, after in pairwise(states))
    assert backbone == {*stages, "heads.2"}
    assert heads == {"heads.0", "heads.1"}
    assert together == {*stages, "heads.0", "heads.1", "heads.2"}


def test_the_recipe_fashion_mnist_trains_its_backbone_for_90_epochs_and_its_heads_for_22() -> None:
    backbone, heads = phases("frozen-heads", 112)
    assert (backbone.epochs, backbone.peak_share) == (90, 1.0)
    assert (heads.epochs, heads.peak_share) == (22, 0.5)


def test_frozen_heads_do_not_change_the_final_exit(recipe: Recipe, digits: Dataset) -> None:
    network = seeded_network(recipe, digits, 0)
    fit = make_fit(network, digits, shortened(recipe, "frozen-heads", 2))
    fit.run_epoch(lambda: None)
    backbone = copied(network)
    fit.run_epoch(lambda: None)
    assert changed(backbone, copied(network)) == {"heads.0", "heads.1"}


def test_a_backbone_phase_measures_only_the_final_exit(recipe: Recipe, digits: Dataset) -> None:
    fit = make_fit(seeded_network(recipe, digits, 0), digits, recipe)
    counts = [len(fit.run_epoch(lambda: None).tune_accuracy_E) for _ in range(3)]
    assert counts == [1, 3, 3]


def test_the_first_phase_trains_like_a_backbone_without_early_exits(recipe: Recipe, digits: Dataset) -> None:
    network = seeded_network(recipe, digits, 0)
    alone = seeded_network(recipe, digits, 0).without_early_exits()
    make_fit(network, digits, recipe).run_epoch(lambda: None)
    make_fit(alone, digits, shortened(recipe, "frozen", 1)).run_epoch(lambda: None)
    assert changed(copied(alone), copied(network.without_early_exits())) == set()


def test_a_backbone_learns_from_its_teachers_final_exit(recipe: Recipe, digits: Dataset) -> None:
    teacher = seeded_network(recipe, digits, 7)
    network = seeded_network(recipe, digits, 0)
    alone = seeded_network(recipe, digits, 0).without_early_exits()
    taught = Teachers([teacher], teaching_mix=1.0)
    make_fit(network, digits, recipe, taught).run_epoch(lambda: None)
    taught_by_final = Teachers([teacher.without_early_exits()], teaching_mix=1.0)
    make_fit(alone, digits, shortened(recipe, "frozen", 1), taught_by_final).run_epoch(lambda: None)
    assert changed(copied(alone), copied(network.without_early_exits())) == set()


def test_each_phase_has_its_own_cycle_of_half_and_of_a_tenth_of_the_peak(
    recipe: Recipe, digits: Dataset
) -> None:
    fit = make_fit(seeded_network(recipe, digits, 0), digits, recipe)
    rates: list[float] = []
    for _ in range(3):
        fit.run_epoch(lambda: rates.append(fit.checkpoint().optimizer["param_groups"][0]["lr"]))
    first, second, third = (rates[start : start + fit.steps_per_epoch] for start in (0, 8, 16))
    assert second == pytest.approx([rate / 2 for rate in first])
    assert third == pytest.approx([rate / 10 for rate in first])


@pytest.fixture
def train_in(
    recipe: Recipe, digits: Dataset, tmp_path: Path
) -> Callable[[str, TrainingProgress], Sequence[Weights]]:
    def train_in(name: str, progress: TrainingProgress) -> Sequence[Weights]:
        folder = RunFolder(tmp_path / name)
        folder.begin(recipe, digits.digests)
        return [copied(each.network) for each in train(recipe, digits, folder, progress)]

    return train_in


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_an_interrupt_in_any_phase_does_not_change_the_weights(
    train_in: Callable[[str, TrainingProgress], Sequence[Weights]], epochs: int
) -> None:
    undisturbed = train_in("whole", ProgressBar(quiet=True))
    with pytest.raises(Interrupted):
        train_in("resumed", StopsAfter("epoch", epochs))
    counts = Counts()
    resumed = train_in("resumed", counts)
    assert counts.epochs == 2 * 3 - epochs
    assert [changed(*each) for each in zip(undisturbed, resumed, strict=True)] == [set(), set()]


def test_a_run_publishes_the_architectures_own_exits(recipe: Recipe, tmp_path: Path) -> None:
    one = recipe.generations.model_copy(update={"count": 1})
    recipe = recipe.model_copy(update={"generations": one})
    run(recipe, "tiny", RunFolder(tmp_path / "run"), tmp_path / "models", Counts(), resume=False)
    manifest = read_version(tmp_path / "models" / "tiny" / "1").manifest
    assert len(manifest.exits) == len(manifest.stages) == recipe.architecture.exits
    assert manifest.provenance.recipe["exits"] == {"train": "frozen-then-joint"}
