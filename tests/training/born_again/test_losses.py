"""The losses compared with references in NumPy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.born_again.losses import composed_loss, divergence

EXITS, ROWS, CLASSES = 3, 7, 5  # logits are [EXITS, ROWS, CLASSES], the teacher's [ROWS, CLASSES]
Floats = NDArray[np.float64]


@pytest.fixture
def logits() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 3, (EXITS, ROWS, CLASSES)))


@pytest.fixture
def teacher() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(0, 3, (ROWS, CLASSES)))


@pytest.fixture
def truth() -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).integers(0, CLASSES, ROWS))


def softmax(logits_BK: Floats) -> Floats:
    exponentials = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def cross_entropy(logits_BK: Floats, truth_B: NDArray[np.int64]) -> float:
    return float(np.mean([-np.log(softmax(logits_BK)[row, truth_B[row]]) for row in range(ROWS)]))


def kl(teacher_BK: Floats, student_BK: Floats, temperature: float) -> float:
    p, q = softmax(teacher_BK / temperature), softmax(student_BK / temperature)
    return temperature**2 * float((p * (np.log(p) - np.log(q))).sum(axis=1).mean())


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits / temperature, dim=1)


def compose(logits: Tensor, truth: Tensor, *, share: float, weight: float = 0.3) -> Tensor:
    return composed_loss(
        logits,
        lambda _number, logits_BK: torch.nn.functional.cross_entropy(logits_BK, truth),
        exit_weight=weight,
        distillation_share=share,
        distillation_temperature=4.0,
    )


def test_the_divergence_is_a_mean_over_rows_times_the_temperature_squared(
    logits: Tensor, teacher: Tensor
) -> None:
    expected = kl(teacher.numpy(), logits[0].numpy(), 4.0)
    got = divergence(log_softmax(teacher, 4.0), logits[0], 4.0)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_the_divergence_of_equal_logits_is_zero(teacher: Tensor) -> None:
    assert divergence(log_softmax(teacher, 4.0), teacher, 4.0).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_loss_composes_labels_and_the_final_exit(logits: Tensor, truth: Tensor, share: float) -> None:
    z, y = logits.numpy(), truth.numpy()
    expected = cross_entropy(z[2], y)
    for early in (z[0], z[1]):
        expected += 0.3 * ((1 - share) * cross_entropy(early, y) + share * kl(z[2], early, 4.0))
    assert compose(logits, truth, share=share).item() == pytest.approx(expected, rel=1e-12)


def test_every_exits_loss_gets_the_exits_number(logits: Tensor) -> None:
    asked: list[tuple[int, bool]] = []

    def loss_of_exit(number: int, logits_BK: Tensor) -> Tensor:
        asked.append((number, torch.equal(logits_BK, logits[number])))
        return logits_BK.sum()

    composed_loss(logits, loss_of_exit, exit_weight=1.0, distillation_share=0.5, distillation_temperature=2.0)
    assert sorted(asked) == [(0, True), (1, True), (2, True)]


def test_at_full_distillation_only_the_final_exit_has_a_label_loss(logits: Tensor) -> None:
    asked: list[int] = []

    def loss_of_exit(number: int, logits_BK: Tensor) -> Tensor:
        asked.append(number)
        return logits_BK.sum()

    composed_loss(logits, loss_of_exit, exit_weight=1.0, distillation_share=1.0, distillation_temperature=2.0)
    assert asked == [2]


def test_the_final_exit_learns_nothing_from_the_early_ones(logits: Tensor, truth: Tensor) -> None:
    whole = logits.clone().requires_grad_()
    compose(whole, truth, share=1.0).backward()  # type: ignore[no-untyped-call]
    alone = logits[2].clone().requires_grad_()
    torch.nn.functional.cross_entropy(alone, truth).backward()  # type: ignore[no-untyped-call]
    assert whole.grad is not None
    assert alone.grad is not None
    assert torch.equal(whole.grad[2], alone.grad)
    assert whole.grad[0].abs().max() > 0


def test_the_loss_does_not_depend_on_the_batch_size(logits: Tensor, truth: Tensor) -> None:
    once = compose(logits, truth, share=0.5)
    twice = compose(logits.repeat(1, 2, 1), truth.repeat(2), share=0.5)
    assert twice.item() == pytest.approx(once.item(), rel=1e-12)
