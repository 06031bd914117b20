"""Output folders: one process at a time, resumed after a kill."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training.errors import RunError
from training.pipeline.output_folder import LOCK_FILE, check_writable, hold, make_writable, run_id

HOLDER = """
import signal, sys
from pathlib import Path
from training.pipeline.output_folder import hold
with hold(Path(sys.argv[1]), resume=False):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny"


def kill_a_holder(folder: Path, *kept: str) -> None:
    """Lock the folder in a process that writes some files and is then killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for name in kept:
            (folder / name).touch()
        process.send_signal(signal.SIGKILL)


def begin(folder: Path, *, resume: bool = False, keep: str | None = None) -> None:
    with hold(folder, resume=resume):
        if keep is not None:
            (folder / keep).touch()


def test_the_error_of_a_locked_folder_names_the_process(folder: Path) -> None:
    with hold(folder, resume=False), pytest.raises(RunError) as caught:
        begin(folder, resume=True)
    here = f"process {os.getpid()} on {platform.node()} since 20"
    assert str(caught.value).startswith(f"output folder {folder}: in use by {here}")
    assert "\n" not in str(caught.value)


def test_the_lock_is_removed_at_the_end(folder: Path) -> None:
    begin(folder, keep="recipe.json")
    assert [path.name for path in folder.iterdir()] == ["recipe.json"]
    begin(folder, resume=True)


@pytest.mark.parametrize("kept", [(), ("recipe.json",)])
def test_the_folder_of_a_killed_process_can_be_resumed(folder: Path, kept: tuple[str, ...]) -> None:
    kill_a_holder(folder, *kept)
    assert (folder / LOCK_FILE).exists()
    begin(folder, resume=True)
    assert not (folder / LOCK_FILE).exists()


def test_a_folder_with_files_needs_resume(folder: Path) -> None:
    begin(folder, keep="recipe.json")
    with pytest.raises(RunError, match=r"expected an empty one, got 1 entries: .*--resume"):
        begin(folder)


def test_a_missing_folder_is_not_resumed_and_not_created(folder: Path) -> None:
    with pytest.raises(RunError, match=r"expected a run to resume, got an empty folder: .*--resume"):
        begin(folder, resume=True)
    assert not folder.exists()


def test_an_empty_folder_is_not_resumed_and_not_removed(folder: Path) -> None:
    folder.mkdir(parents=True)
    with pytest.raises(RunError, match="expected a run to resume, got an empty folder"):
        begin(folder, resume=True)
    assert list(folder.iterdir()) == []


def test_files_in_counts_as_empty_do_not_count(folder: Path) -> None:
    begin(folder, keep="attach.json")
    with hold(folder, resume=False, counts_as_empty={"attach.json"}):
        pass


def test_a_new_folder_without_files_is_removed(folder: Path) -> None:
    begin(folder)
    assert not folder.exists()


def test_a_file_as_output_folder_is_refused(folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()
    with pytest.raises(RunError, match="expected a folder, got a file"):
        begin(folder, resume=True)


def test_a_folder_below_a_file_cannot_be_created(folder: Path) -> None:
    folder.parent.touch()
    with pytest.raises(RunError, match=r"runs/tiny: cannot be created: Not a directory"):
        make_writable(folder)


def test_a_checked_folder_is_removed_if_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "published" / "1").mkdir(parents=True)

    check_writable(tmp_path / "published")
    check_writable(tmp_path / "tried")

    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_a_folder_keeps_its_id_and_folders_have_different_ids(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert run_id(tmp_path) == run_id(tmp_path) != run_id(tmp_path / "other")
