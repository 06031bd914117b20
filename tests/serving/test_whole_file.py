from pathlib import Path

import pytest

from serving.whole_file import write_whole


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_whole(path, "one")

    write_whole(path, "two")

    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_whole(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "a lone surrogate: \udc00")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
