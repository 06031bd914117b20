import os
import threading
from pathlib import Path

import pytest

from tests.training.full_disk import no_room_for_files
from training.files.file_lock import lock_file
from training.files.whole_file import whole_file


def write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)


def test_the_file_is_there_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as file:
        file.write(b"new")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_file_and_folder_are_synced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "a", b"new")

    assert synced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]


def write_half(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "a")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_a_draft_that_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".a.draft").write_bytes(b"half of something long")
    with whole_file(tmp_path / "a") as file:
        file.write(b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]


def test_a_second_writer_waits_for_the_first_and_neither_spoils_the_other(tmp_path: Path) -> None:
    path, second = tmp_path / "a", threading.Thread(target=lambda: write(tmp_path / "a", b"second"))
    with whole_file(path) as file:
        file.write(b"fir")
        file.flush()
        assert lock_file(tmp_path / ".a.draft") is None
        second.start()
        file.write(b"st")
    second.join()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"second")]


def test_a_full_disk_is_said_with_the_files_name_and_leaves_the_old_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with no_room_for_files(), pytest.raises(OSError, match=rf"File too large: '{tmp_path}/a'"):
        write(tmp_path / "a", bytes(100_000))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]
