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
def test_characters_that_control_a_terminal_are_escaped(text: str, printed: str) -> None:
    assert printable(text) == printed


def test_line_ends_and_tabs_are_kept_and_a_carriage_return_becomes_a_line_end() -> None:
    assert printable_lines("a\tb\n50 %\r60 %\x1b[A\n") == "a\tb\n50 %\n60 %\\x1b[A\n"


@given(st.text())
def test_every_text_becomes_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert printable_lines(text).replace("\n", "").replace("\t", "").isprintable()
