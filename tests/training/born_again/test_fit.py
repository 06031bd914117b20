from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.training.born_again.tiny_fit import make_fit
from training.architectures.network import MultiExitNetwork
from training.born_again.fit import exit_accuracy
from training.born_again.teachers import Teachers
from training.data.splits import Dataset
from training.errors import RecipeError
from training.recipe.recipe import Recipe

MakeNetwork = Callable[[], MultiExitNetwork]


def copied(network: MultiExitNetwork) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_the_loss_falls(make_tiny_network: MakeNetwork, digits: Dataset, tiny_recipe: Recipe) -> None:
    fit = make_fit(make_tiny_network(), digits, tiny_recipe)
    first, second = fit.run_epoch(lambda: None), fit.run_epoch(lambda: None)
    assert second.loss < first.loss
    assert fit.history == (first, second)


def test_training_does_not_change_the_teacher(
    make_tiny_network: MakeNetwork, digits: Dataset, tiny_recipe: Recipe
) -> None:
    teacher = make_tiny_network().train()
    before = copied(teacher)  # includes the running means, which training mode would change
    teachers = Teachers([teacher], teaching_mix=0.0)
    make_fit(make_tiny_network(), digits, tiny_recipe, teachers).run_epoch(lambda: None)
    assert not teacher.training
    assert [name for name, tensor in copied(teacher).items() if not torch.equal(tensor, before[name])] == []
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_every_batch_reports_one_step_even_the_smaller_last(
    make_tiny_network: MakeNetwork, digits: Dataset, tiny_recipe: Recipe
) -> None:
    fit = make_fit(make_tiny_network(), digits, tiny_recipe)
    steps: list[None] = []
    fit.run_epoch(lambda: steps.append(None))
    assert len(steps) == fit.steps_per_epoch == 8  # 937 rows in batches of 128


def test_a_loss_that_is_not_finite_names_the_learning_rate(
    make_tiny_network: MakeNetwork, digits: Dataset, tiny_recipe: Recipe
) -> None:
    schedule = tiny_recipe.schedule.model_copy(update={"learning_rate": 1e30})
    fit = make_fit(make_tiny_network(), digits, tiny_recipe.model_copy(update={"schedule": schedule}))
    complaint = (
        r"loss: expected a finite one, got nan in generation 0, epoch 1, at schedule.learning_rate 1e\+30"
    )
    with pytest.raises(RecipeError, match=complaint):
        fit.run_epoch(lambda: None)


def test_exit_accuracy_counts_correct_rows_and_restores_the_mode(
    make_tiny_network: MakeNetwork, digits: Dataset
) -> None:
    network = make_tiny_network().train()
    images, truth_N = torch.from_numpy(digits.tune.images_NCHW), torch.from_numpy(digits.tune.truth_N)
    got = exit_accuracy(network, images, truth_N)
    assert network.training
    label_EN = network.eval()(images).argmax(dim=2)
    assert got == pytest.approx([(label_N == truth_N).double().mean().item() for label_N in label_EN])
