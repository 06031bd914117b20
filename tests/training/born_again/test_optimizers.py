"""The optimizers of a schedule, on the CPU."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from training.born_again.optimizers import MOMENTUM, load_optimizer_state, make_optimizer, set_learning_rate
from training.recipe.settings import ScheduleSection

CPU = torch.device("cpu")
GRADIENTS = ([0.5, -2.0], [1.0, 0.25], [-0.75, 1.0])


def run(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradient: list[float], rate: float
) -> None:
    set_learning_rate(optimizer, rate)
    parameter.grad = torch.tensor(gradient)
    optimizer.step()


def test_sgd_has_nesterov_momentum_and_adds_the_weight_decay_to_the_gradient() -> None:
    schedule = ScheduleSection(optimizer="sgd", learning_rate=0.1, weight_decay=0.01)
    parameter = nn.Parameter(torch.tensor([1.0, -3.0]))
    optimizer = make_optimizer([parameter], schedule, CPU)
    expected, velocity = np.array([1.0, -3.0]), np.zeros(2)
    for gradient, rate in zip(GRADIENTS, (0.1, 0.2, 0.05), strict=True):
        run(optimizer, parameter, gradient, rate)
        decayed = np.array(gradient) + 0.01 * expected
        velocity = MOMENTUM * velocity + decayed
        expected = expected - rate * (decayed + MOMENTUM * velocity)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-6)


def test_adamw_decays_the_weights_apart_from_the_gradient() -> None:
    schedule = ScheduleSection(learning_rate=0.1, weight_decay=0.5)
    parameter = nn.Parameter(torch.tensor([2.0]))
    run(make_optimizer([parameter], schedule, CPU), parameter, [3.0], 0.1)
    # The first step has the size of the rate, whatever the gradient.
    assert parameter.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, rel=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_loaded_state_continues_as_the_saved_one(name: str) -> None:
    schedule = ScheduleSection.model_validate({"optimizer": name, "learning_rate": 0.1})
    parameters = [nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2)]
    first, second = (make_optimizer([parameter], schedule, CPU) for parameter in parameters)
    run(first, parameters[0], GRADIENTS[0], 0.1)
    parameters[1].data.copy_(parameters[0].data)
    load_optimizer_state(second, copy.deepcopy(first.state_dict()))
    for optimizer, parameter in zip((first, second), parameters, strict=True):
        run(optimizer, parameter, GRADIENTS[1], 0.05)
    assert torch.equal(parameters[0], parameters[1])
