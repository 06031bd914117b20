from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.born_again.tiny_fit import make_fit
from training.architectures.network import MultiExitNetwork
from training.born_again.hints import Hints
from training.data.splits import Dataset
from training.recipe.recipe import Recipe

WIDTHS = (2, 3, 4)
ROWS = 5


@pytest.fixture
def hints() -> Hints:
    torch.manual_seed(0)
    return Hints(WIDTHS)


@pytest.fixture
def embeddings() -> list[Tensor]:
    generator = np.random.default_rng(0)
    return [
        torch.from_numpy(generator.normal(0, 2, (ROWS, width)).astype(np.float32)).requires_grad_()
        for width in WIDTHS
    ]


def by_hand(hints: Hints, embeddings: list[Tensor]) -> float:
    *early, final_BD = (embedding.detach().numpy() for embedding in embeddings)
    total = 0.0
    for to_final, embedding_BD in zip(hints.maps, early, strict=True):
        weight_DD = to_final.get_parameter("weight").detach().numpy()
        bias_D = to_final.get_parameter("bias").detach().numpy()
        squares = 0.0
        for row in range(ROWS):
            squares += float(((weight_DD @ embedding_BD[row] + bias_D - final_BD[row]) ** 2).sum())
        total += squares / (ROWS * WIDTHS[-1])
    return total


def test_hints_match_a_reference_in_plain_loops(hints: Hints, embeddings: list[Tensor]) -> None:
    assert hints(embeddings).item() == pytest.approx(by_hand(hints, embeddings), rel=1e-5)


def test_embeddings_that_map_onto_the_final_ones_have_loss_0(hints: Hints, embeddings: list[Tensor]) -> None:
    for to_final in hints.maps:
        torch.nn.init.zeros_(to_final.get_parameter("weight"))
        torch.nn.init.ones_(to_final.get_parameter("bias"))
    assert hints([*embeddings[:-1], torch.ones(ROWS, WIDTHS[-1])]).item() == 0


def test_all_but_the_final_exit_get_a_gradient(hints: Hints, embeddings: list[Tensor]) -> None:
    torch.autograd.backward(hints(embeddings))
    *early, final_BD = embeddings
    assert final_BD.grad is None
    taught = [*early, *hints.parameters()]
    assert all(each.grad is not None and each.grad.abs().max() > 0 for each in taught)


def test_each_map_has_an_early_width_as_input_and_the_final_width_as_output(hints: Hints) -> None:
    assert [tuple(to_final.get_parameter("weight").shape) for to_final in hints.maps] == [(4, 2), (4, 3)]


def test_hints_under_bf16_return_fp32_close_to_the_exact_value(
    hints: Hints, embeddings: list[Tensor]
) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = hints(embeddings)
    assert distance.dtype == torch.float32
    assert distance.item() == pytest.approx(by_hand(hints, embeddings), rel=0.02)


def test_the_maps_are_not_part_of_the_network(
    make_tiny_network: Callable[[], MultiExitNetwork], digits: Dataset, tiny_recipe: Recipe
) -> None:
    student = make_tiny_network()
    maps = Hints([head.embedding_width for head in student.heads])
    fit = make_fit(student, digits, tiny_recipe, hints=maps)
    checkpoint = fit.checkpoint()
    assert set(checkpoint.network) == set(student.state_dict()) == set(make_tiny_network().state_dict())
    assert not any("hints" in name or "maps" in name for name in checkpoint.network)
    assert set(checkpoint.hints) == {"maps.0.weight", "maps.0.bias", "maps.1.weight", "maps.1.bias"}
