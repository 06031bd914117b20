import os
import threading
from pathlib import Path

import pytest

from serving.files import atomic_write, lock_file
from tests.training.full_disk import no_room_for_files


def write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as file:
        file.write(b"new")
        assert not (tmp_path / "a").exists()
    assert contents(tmp_path) == {"a": b"new"}


def test_a_file_is_replaced_and_no_other_file_remains(tmp_path: Path) -> None:
    write(tmp_path / "a", b"something long")

    write(tmp_path / "a", b"new")

    assert contents(tmp_path) == {"a": b"new"}


def test_file_and_folder_are_synced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "a", b"new")

    assert synced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]


def write_half(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_failed_write_keeps_the_old_file_and_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "a")
    assert contents(tmp_path) == {"a": b"old"}


def test_the_draft_of_a_killed_process_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.draft").write_bytes(b"half of something long")
    write(tmp_path / "a", b"new")
    assert contents(tmp_path) == {"a": b"new"}


def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    path, second = tmp_path / "a", threading.Thread(target=lambda: write(tmp_path / "a", b"second"))
    with atomic_write(path) as file:
        file.write(b"fir")
        file.flush()
        assert lock_file(tmp_path / ".a.draft") is None
        second.start()
        file.write(b"st")
    second.join()
    assert contents(tmp_path) == {"a": b"second"}


def test_the_error_of_a_full_disk_names_the_file_and_the_old_file_remains(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with no_room_for_files(), pytest.raises(OSError, match=rf"File too large: '{tmp_path}/a'"):
        write(tmp_path / "a", bytes(100_000))
    assert contents(tmp_path) == {"a": b"old"}


def test_a_new_file_has_the_given_permissions(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a", mode=0o600) as file:
        file.write(b"secret")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_symbolic_link_as_draft_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / ".a.draft").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=r"\.a\.draft"):
        write(tmp_path / "a", b"new")
    assert (tmp_path / "target").read_bytes() == b"old"
