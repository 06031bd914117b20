"""How the page writes figures."""

import pytest

from serving.http import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, words.DASH), (0.000254, "0.25 ms"), (0.0254, "25.4 ms"), (1.5, "1500 ms")],
)
def test_milliseconds_have_three_digits_that_count(seconds: float | None, text: str) -> None:
    assert words.milliseconds(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.9, "5 s"), (65, "1 min 5 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")]
)
def test_a_duration_has_two_units(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text
