"""Aligned tables."""

from serving.console.table import table


def test_columns_are_aligned_and_the_last_is_not_padded() -> None:
    assert table(("row", "label"), [(0, "bee"), (10, "a long label")]) == [
        "row  label",
        "0    bee",
        "10   a long label",
    ]


def test_cells_are_made_printable_before_they_are_aligned() -> None:
    assert table(("a", "b"), [("\x1b[2J", 1)]) == ["a        b", "\\x1b[2J  1"]


def test_a_table_without_rows_is_its_header() -> None:
    assert table(("a", "b"), []) == ["a  b"]
