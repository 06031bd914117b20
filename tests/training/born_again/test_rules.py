"""Each rule compared with a reference in NumPy, and its gradient with finite differences."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.born_again.losses import composed_loss
from training.born_again.rules import RULES, Lesson, RuleSettings, TeacherTarget, permute_dark_knowledge

MEMBERS, EXITS, ROWS, CLASSES = 2, 3, 7, 5
ALPHA, TEMPERATURE = 0.3, 2.0
SETTINGS = RuleSettings(ALPHA, TEMPERATURE)
WEIGHTS = (0.25, 0.75)
Floats = NDArray[np.float64]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape))


@pytest.fixture
def logits() -> Tensor:
    return draw(0, ROWS, CLASSES)


@pytest.fixture
def lesson() -> Lesson:
    return Lesson(
        truth_B=torch.from_numpy(np.random.default_rng(2).integers(0, CLASSES, ROWS)),
        target=TeacherTarget(draw(1, MEMBERS, ROWS, CLASSES), WEIGHTS),
        noise_BK=torch.rand((ROWS, CLASSES), generator=torch.Generator().manual_seed(3)),
    )


def softmax(logits_BK: Floats) -> Floats:
    exponentials = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def mixture(lesson: Lesson, temperature: float = 1.0) -> Floats:
    first, second = lesson.target.logits_MBK.numpy()
    return np.asarray(WEIGHTS[0] * softmax(first / temperature) + WEIGHTS[1] * softmax(second / temperature))


def soft_cross_entropy(target_BK: Floats, logits_BK: Floats) -> float:
    return float(-(target_BK * np.log(softmax(logits_BK))).sum(axis=1).mean())


def hard_losses(logits_BK: Floats, truth_B: NDArray[np.int64]) -> Floats:
    return np.array([-np.log(softmax(logits_BK)[row, truth_B[row]]) for row in range(ROWS)])


def permuted_by_hand(target_BK: Floats, noise_BK: Floats) -> Floats:
    permuted_BK = target_BK.copy()
    for row in range(ROWS):
        largest = int(np.argmax(target_BK[row]))
        others = [place for place in range(CLASSES) if place != largest]
        drawn = sorted(others, key=lambda place, row=row: noise_BK[row, place])  # type: ignore[misc]
        for place, source in zip(others, drawn, strict=True):
            permuted_BK[row, place] = target_BK[row, source]
    return permuted_BK


def kd_by_hand(logits_BK: Floats, lesson: Lesson) -> float:
    p, q = mixture(lesson, TEMPERATURE), softmax(logits_BK / TEMPERATURE)
    kl = float((p * (np.log(p) - np.log(q))).sum(axis=1).mean())
    labels = float(hard_losses(logits_BK, lesson.truth_B.numpy()).mean())
    return ALPHA * labels + (1 - ALPHA) * TEMPERATURE**2 * kl


def ban_by_hand(logits_BK: Floats, lesson: Lesson) -> float:
    return soft_cross_entropy(mixture(lesson), logits_BK)


def ban_l_by_hand(logits_BK: Floats, lesson: Lesson) -> float:
    labels = float(hard_losses(logits_BK, lesson.truth_B.numpy()).mean())
    return ban_by_hand(logits_BK, lesson) + labels


def cwtm_by_hand(logits_BK: Floats, lesson: Lesson) -> float:
    confidence_B = mixture(lesson).max(axis=1)
    losses_B = hard_losses(logits_BK, lesson.truth_B.numpy())
    return float(sum(confidence_B[row] / confidence_B.sum() * losses_B[row] for row in range(ROWS)))


def dkpp_by_hand(logits_BK: Floats, lesson: Lesson) -> float:
    return soft_cross_entropy(permuted_by_hand(mixture(lesson), lesson.noise_BK.numpy()), logits_BK)


BY_HAND: dict[str, Callable[[Floats, Lesson], float]] = {
    "kd": kd_by_hand,
    "ban": ban_by_hand,
    "ban+l": ban_l_by_hand,
    "cwtm": cwtm_by_hand,
    "dkpp": dkpp_by_hand,
}


def test_every_rule_has_a_reference() -> None:
    assert set(RULES) == set(BY_HAND)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_matches_its_reference(rule: str, logits: Tensor, lesson: Lesson) -> None:
    got = RULES[rule](logits, lesson, SETTINGS)
    assert got.item() == pytest.approx(BY_HAND[rule](logits.numpy(), lesson), rel=1e-10)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_gradient_of_the_composed_loss_is_that_of_finite_differences(
    rule: str, share: float, lesson: Lesson
) -> None:
    # A tiny network: each exit is a linear map of the previous one, with trainable weights.
    images_BD, weights_EDK = draw(5, ROWS, CLASSES), draw(6, EXITS, CLASSES, CLASSES) / 4
    final_at_the_start = None

    def loss(weights_EDK: Tensor) -> Tensor:
        nonlocal final_at_the_start
        features, logits = images_BD, []
        for weights_DK in weights_EDK:
            features = torch.tanh(features @ weights_DK)
            logits.append(features * 3)
        if final_at_the_start is None:
            final_at_the_start = logits[-1].detach()
        # The final exit gets no gradient from the early exits' loss, so it is constant there.
        final = logits[-1]
        early = composed_loss(
            torch.stack([*logits[:-1], final_at_the_start]),
            lambda _, each: RULES[rule](each, lesson, SETTINGS),
            exit_weight=0.3,
            distillation_share=share,
            distillation_temperature=4.0,
        )
        fixed = RULES[rule](final_at_the_start, lesson, SETTINGS)
        return early - fixed + RULES[rule](final, lesson, SETTINGS)

    def own_loss(weights_EDK: Tensor) -> Tensor:
        features, logits = images_BD, []
        for weights_DK in weights_EDK:
            features = torch.tanh(features @ weights_DK)
            logits.append(features * 3)
        return composed_loss(
            torch.stack(logits),
            lambda _, each: RULES[rule](each, lesson, SETTINGS),
            exit_weight=0.3,
            distillation_share=share,
            distillation_temperature=4.0,
        )

    variable = weights_EDK.clone().requires_grad_()
    own_loss(variable).backward()  # type: ignore[no-untyped-call]
    assert variable.grad is not None
    loss(weights_EDK)
    step = 1e-6
    for place in np.random.default_rng(7).integers(0, weights_EDK.numel(), 12):
        moved = torch.zeros(weights_EDK.numel(), dtype=torch.float64)
        moved[place] = step
        moved = moved.reshape(weights_EDK.shape)
        difference = (loss(weights_EDK + moved) - loss(weights_EDK - moved)).item() / (2 * step)
        assert variable.grad.reshape(-1)[place].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_does_not_depend_on_the_batch_size(rule: str, logits: Tensor, lesson: Lesson) -> None:
    twice = Lesson(
        lesson.truth_B.repeat(2),
        TeacherTarget(lesson.target.logits_MBK.repeat(1, 2, 1), WEIGHTS),
        lesson.noise_BK.repeat(2, 1),
    )
    once = RULES[rule](logits, lesson, SETTINGS).item()
    assert RULES[rule](logits.repeat(2, 1), twice, SETTINGS).item() == pytest.approx(once, rel=1e-10)


def test_a_target_of_several_members_is_their_weighted_mean_at_any_temperature(lesson: Lesson) -> None:
    for temperature in (1.0, 4.0):
        got = lesson.target.log_probabilities(temperature).exp().numpy()
        np.testing.assert_allclose(got, mixture(lesson, temperature), rtol=1e-12)


def test_a_target_of_one_member_is_that_members_softmax_bit_for_bit(logits: Tensor) -> None:
    alone = TeacherTarget(logits[None], (1.0,)).log_probabilities(4.0)
    assert torch.equal(alone, torch.log_softmax(logits / 4.0, dim=1))


def test_permuting_keeps_the_largest_entry_and_the_values_of_the_others(lesson: Lesson) -> None:
    target_BK = lesson.target.probabilities()
    permuted_BK = permute_dark_knowledge(target_BK, lesson.noise_BK)
    assert torch.equal(permuted_BK.argmax(dim=1), target_BK.argmax(dim=1))
    assert torch.equal(permuted_BK.amax(dim=1), target_BK.amax(dim=1))
    assert torch.equal(permuted_BK.sort(dim=1).values, target_BK.sort(dim=1).values)


def test_all_permutations_of_dark_knowledge_are_equally_likely() -> None:
    draws = 6_000
    target_BK = torch.tensor([[0.1, 0.6, 0.2, 0.07, 0.03]]).repeat(draws, 1)
    noise_BK = torch.rand(target_BK.shape, generator=torch.Generator().manual_seed(0))
    permuted_BK = permute_dark_knowledge(target_BK, noise_BK)
    _, counts = torch.unique(permuted_BK, dim=0, return_counts=True)
    assert len(counts) == 24
    expected, deviation = draws / 24, (draws / 24) ** 0.5
    assert ((counts - expected).abs() < 4.5 * deviation).all()


def test_cwtm_weights_by_the_teachers_largest_probability_even_if_it_is_wrong(logits: Tensor) -> None:
    # The teacher is confident in a wrong label for row 0, and undecided for row 1.
    teacher = torch.full((1, 2, CLASSES), 0.0, dtype=torch.float64)
    teacher[0, 0, 1] = 50.0
    truth_B = torch.tensor([0, 0])
    lesson = Lesson(truth_B, TeacherTarget(teacher, (1.0,)), torch.zeros(2, CLASSES))
    losses = hard_losses_of(logits[:2], truth_B)
    expected = (1.0 * losses[0] + 0.2 * losses[1]) / 1.2
    assert RULES["cwtm"](logits[:2], lesson, SETTINGS).item() == pytest.approx(expected, rel=1e-9)


def hard_losses_of(logits: Tensor, truth_B: Tensor) -> list[float]:
    probabilities = softmax(logits.numpy())
    return [-float(np.log(probabilities[row, label])) for row, label in enumerate(truth_B.tolist())]
