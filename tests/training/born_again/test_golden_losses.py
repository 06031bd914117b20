import pytest

from tests.training.born_again import golden_losses

RELATIVE_TOLERANCE = 2e-3
"""Tolerance for another processor's order of FP32 sums over 16 steps. A change of a rule exceeds it."""


def test_two_epochs_of_every_rule_have_the_losses_of_the_golden_file() -> None:
    assert dict(golden_losses.losses()) == pytest.approx(golden_losses.read(), rel=RELATIVE_TOLERANCE)


def test_a_repeat_is_bitwise_equal() -> None:
    assert list(golden_losses.losses()) == list(golden_losses.losses())
