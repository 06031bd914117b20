import pytest
import torch
from torch import nn

from training.architectures.heads import Head
from training.architectures.network import MultiExitNetwork, PixelNormalisation
from training.exits.cost import multiply_adds, parameters


def small_network(*also: nn.Module) -> MultiExitNetwork:
    first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    second = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False), *also)
    heads = [
        Head(nn.Flatten(), nn.Linear(4 * 4 * 4, 3)),
        Head(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(8, 3)),
    ]
    return MultiExitNetwork(PixelNormalisation([0.0], [1.0]), [first, second], heads)


def test_multiply_adds_match_a_count_by_hand() -> None:
    assert multiply_adds(small_network(), (1, 8, 8)) == (
        4 * 8 * 8 * (1 * 3 * 3) + 64 * 3,  # batch norm folds into the convolution
        8 * 2 * 2 * (2 * 3 * 3) + 8 * 3,  # two groups: a channel reads half of the 4
    )


def test_parameters_match_a_count_by_hand() -> None:
    assert parameters(small_network()) == (4 * 9 + 4 + 2 * 4 + 64 * 3 + 3, 8 * 2 * 9 + 8 * 3 + 3)


def test_counting_does_not_change_the_network() -> None:
    network = small_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    multiply_adds(network, (1, 8, 8))

    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_layer_of_unknown_type_is_refused_by_name() -> None:
    network = small_network(nn.ConvTranspose2d(8, 8, 1))

    with pytest.raises(ValueError, match=r"layer 0\.1: expected one of Conv2d, .* got ConvTranspose2d"):
        multiply_adds(network, (1, 8, 8))
