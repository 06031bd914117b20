import pytest

from tests.training.born_again import golden_losses

RELATIVE_TOLERANCE = 2e-3
"""What another processor's order of FP32 sums may move a mean loss in 16 steps; a rule moves it more."""


def test_two_epochs_of_every_rule_lose_what_they_lost_when_the_golden_file_was_written() -> None:
    assert dict(golden_losses.losses()) == pytest.approx(golden_losses.read(), rel=RELATIVE_TOLERANCE)


def test_a_repeat_is_bitwise_equal() -> None:
    assert list(golden_losses.losses()) == list(golden_losses.losses())
