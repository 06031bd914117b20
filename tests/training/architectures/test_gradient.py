"""Compares gradient equilibrium with plain autograd: one backward pass per exit, and their mean."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.architectures.gradient import balance, scale_gradient
from training.architectures.head_settings import HeadSettings
from training.architectures.network import MultiExitNetwork, NetworkOptions, PixelNormalisation
from training.architectures.registry import build

ROWS, CLASSES = 6, 5
IMAGES_BCHW = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (ROWS, 1, 8, 8), dtype=np.uint8))
TRUTH_B = torch.from_numpy(np.random.default_rng(1).integers(0, CLASSES, ROWS))

EXITS = [("deep_supervision", 3), ("residual", 4)]


def make_network(name: str, exits: int) -> MultiExitNetwork:
    torch.manual_seed(0)
    network = build(
        name,
        PixelNormalisation([127.0], [74.0]),
        NetworkOptions(
            image_shape=(1, 8, 8),
            classes=CLASSES,
            width=(3,),
            depth=(1,) * exits,
            heads=(HeadSettings(grid=2),) * exits,
        ),
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # new residual blocks have 0, which stops gradients
    return network


def losses(network: MultiExitNetwork, *, gradient_equilibrium: bool) -> list[Tensor]:
    logits_EBK, _ = network.answer(IMAGES_BCHW, gradient_equilibrium=gradient_equilibrium)
    return [cross_entropy(logits_BK, TRUTH_B) for logits_BK in logits_EBK]


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True))


def equilibrium_loss(network: MultiExitNetwork) -> Tensor:
    return torch.stack(losses(network, gradient_equilibrium=True)).sum()


def assert_close(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for each, other in zip(got, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "exits"), EXITS)
def test_equilibrium_does_not_change_any_bit_of_the_outputs(name: str, exits: int, training: bool) -> None:
    network = make_network(name, exits).train(training)
    plain_EBK, plain_embeddings = network.answer(IMAGES_BCHW)
    logits_EBK, embeddings = network.answer(IMAGES_BCHW, gradient_equilibrium=True)
    assert torch.equal(logits_EBK, plain_EBK)
    for embedding_BD, plain_BD in zip(embeddings, plain_embeddings, strict=True):
        assert torch.equal(embedding_BD, plain_BD)


@pytest.mark.parametrize(("name", "exits"), EXITS)
def test_a_stage_gets_the_mean_gradient_of_all_exits_behind_it(name: str, exits: int) -> None:
    network = make_network(name, exits)
    plain, balanced = losses(network, gradient_equilibrium=False), equilibrium_loss(network)
    for number, stage in enumerate(network.stages):
        parameters = list(stage.parameters())
        of_each_exit = [gradients(loss, parameters) for loss in plain[number:]]
        means = [torch.stack(each).mean(dim=0) for each in zip(*of_each_exit, strict=True)]
        assert max(mean.abs().max().item() for mean in means) > 1e-3
        assert_close(gradients(balanced, parameters), means)


def test_the_first_stages_output_gets_the_mean_gradient_of_all_exits() -> None:
    network, outputs = make_network("deep_supervision", 3), list[Tensor]()
    network.stages[0].register_forward_hook(lambda _stage, _inputs, output: outputs.append(output))
    plain, balanced = losses(network, gradient_equilibrium=False), equilibrium_loss(network)
    plain_BCHW, balanced_BCHW = outputs
    of_each_exit = [torch.autograd.grad(loss, plain_BCHW, retain_graph=True)[0] for loss in plain]
    (got_BCHW,) = torch.autograd.grad(balanced, balanced_BCHW)
    by_hand_BCHW = (of_each_exit[0] + of_each_exit[1] + of_each_exit[2]) / 3
    torch.testing.assert_close(got_BCHW, by_hand_BCHW, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("name", "exits"), EXITS)
def test_a_head_gets_the_full_gradient_of_its_exit(name: str, exits: int) -> None:
    network = make_network(name, exits)
    plain, balanced = losses(network, gradient_equilibrium=False), equilibrium_loss(network)
    for own_loss, head in zip(plain, network.heads, strict=True):
        parameters = list(head.parameters())
        assert_close(gradients(balanced, parameters), gradients(own_loss, parameters))


def test_equilibrium_adds_nothing_to_the_network() -> None:
    network = make_network("deep_supervision", 3)
    before = set(network.state_dict())
    network.answer(IMAGES_BCHW, gradient_equilibrium=True)
    assert set(network.state_dict()) == before


def test_a_scaled_gradient_is_multiplied_by_its_share() -> None:
    features = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    scaled = scale_gradient(features, 0.25)
    assert torch.equal(scaled, features)
    (gradient,) = torch.autograd.grad((scaled**2).sum(), features)
    assert torch.equal(gradient, torch.tensor([0.5, -1.0, 1.5]))


@pytest.mark.parametrize(
    ("exits_from_here", "of_head", "of_deeper"), [(4, 0.25, 0.75), (2, 0.5, 0.5), (1, 1, 0)]
)
def test_the_head_passes_its_share_and_the_deeper_stages_the_rest(
    exits_from_here: int, of_head: float, of_deeper: float
) -> None:
    features = torch.ones(3, requires_grad=True)
    for_head, for_deeper = balance(features, exits_from_here)
    (from_head,) = torch.autograd.grad(for_head.sum(), features)
    (from_deeper,) = torch.autograd.grad(for_deeper.sum(), features)
    assert from_head.tolist() == [of_head] * 3
    assert from_deeper.tolist() == [of_deeper] * 3
