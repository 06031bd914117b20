"""Escaping of text before it is printed on a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.console.printable import printable, printable_lines


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("naïve 日本 {}", "naïve 日本 {}"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x9b2J\x85", "\\x9b2J\\x85"),
        ("\u202eexe.\u2066", "\\u202eexe.\\u2066"),
        ("\u2028\U000e0041", "\\u2028\\U000e0041"),
    ],
)
def test_what_could_drive_or_deceive_a_terminal_is_escaped(text: str, printed: str) -> None:
    assert printable(text) == printed


def test_lines_and_tabs_are_kept_and_what_would_draw_over_a_line_ends_it() -> None:
    assert printable_lines("a\tb\n50 %\r60 %\x1b[A\n") == "a\tb\n50 %\n60 %\\x1b[A\n"


@given(st.text())
def test_every_text_is_printed_by_printable_characters_alone(text: str) -> None:
    assert printable(text).isprintable()
    assert printable_lines(text).replace("\n", "").replace("\t", "").isprintable()
