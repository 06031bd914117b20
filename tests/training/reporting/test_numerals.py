import pytest

from training.reporting import numerals

NBSP = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (23_552, "23.6 k"), (1_204_000, "1.2 M"), (3.5e9, "3.5 G")]
)
def test_large_counts_have_a_unit_prefix(count: float, text: str) -> None:
    assert numerals.quantity(count) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.03, "3"), (0.9972, "99.7"), (1.0, "100"), (0.0, "0"), (0.0004, "0.04")]
)
def test_a_share_in_percent_has_no_trailing_zeros(share: float, text: str) -> None:
    assert numerals.percent(share) == f"{text}{NBSP}%"


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.00001, "< 0.001"), (0.0449, "0.045")])  # noqa: RUF001
def test_p_values_have_three_digits(value: float | None, text: str) -> None:
    assert numerals.p_value(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.91236, "0.912"), (1.0, "1.000")])  # noqa: RUF001
def test_decimals_have_three_digits(value: float | None, text: str) -> None:
    assert numerals.decimal(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (80, "1 min 20 s"), (7_500, "2 h 5 min")],
)
def test_a_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert numerals.duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.03, "3.0"), (0.9972, "99.7"), (1.0, "100.0"), (0.0, "0.0"), (0.0004, "0.04")]
)
def test_a_measured_share_has_one_digit(share: float, text: str) -> None:
    assert numerals.measured(share) == f"{text}{NBSP}%"


@pytest.mark.parametrize(
    ("share", "text"), [(0.003, "+0.3"), (-0.003, "\N{MINUS SIGN}0.3"), (0.0, "0.0"), (-0.0001, "0.0")]
)
def test_points_have_a_sign_unless_they_are_0(share: float, text: str) -> None:
    assert numerals.points(share) == text
