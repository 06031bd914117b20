import pytest

from training.reporting import numerals

NBSP = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("count", "said"), [(7, "7"), (23_552, "23.6 k"), (1_204_000, "1.2 M"), (3.5e9, "3.5 G")]
)
def test_large_counts_are_said_with_a_thousands_letter(count: float, said: str) -> None:
    assert numerals.quantity(count) == said


@pytest.mark.parametrize(
    ("share", "said"), [(0.03, "3"), (0.9972, "99.7"), (1.0, "100"), (0.0, "0"), (0.0004, "0.04")]
)
def test_a_share_is_said_in_percent_without_idle_digits(share: float, said: str) -> None:
    assert numerals.percent(share) == f"{said}{NBSP}%"


@pytest.mark.parametrize(("value", "said"), [(None, "–"), (0.00001, "< 0.001"), (0.0449, "0.045")])  # noqa: RUF001
def test_p_values_are_said_to_three_digits(value: float | None, said: str) -> None:
    assert numerals.p_value(value) == said


@pytest.mark.parametrize(("value", "said"), [(None, "–"), (0.91236, "0.912"), (1.0, "1.000")])  # noqa: RUF001
def test_a_figure_that_is_no_share_is_said_to_three_digits(value: float | None, said: str) -> None:
    assert numerals.decimal(value) == said
