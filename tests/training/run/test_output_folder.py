"""An output folder is one process's at a time, whatever becomes of the one before."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training.errors import RunError
from training.run.output_folder import LOCK_FILE, check_writable, hold, make_writable, run_id

HOLDER = """
import signal, sys
from pathlib import Path
from training.run.output_folder import hold
with hold(Path(sys.argv[1]), resume=False):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny"


def kill_a_holder(folder: Path, *kept: str) -> None:
    """Hold the folder in a process that is killed once it has kept some files."""
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


def test_a_folder_that_is_held_is_refused_by_who_holds_it(folder: Path) -> None:
    with hold(folder, resume=False), pytest.raises(RunError) as caught:
        begin(folder, resume=True)
    here = f"process {os.getpid()} on {platform.node()} since 20"
    assert str(caught.value).startswith(f"output folder {folder}: in use by {here}")
    assert "\n" not in str(caught.value)


def test_a_folder_is_free_again_with_no_trace_of_who_held_it(folder: Path) -> None:
    begin(folder, keep="recipe.json")
    assert [path.name for path in folder.iterdir()] == ["recipe.json"]
    begin(folder, resume=True)


@pytest.mark.parametrize("kept", [(), ("recipe.json",)])
def test_a_killed_process_holds_nothing_and_its_folder_is_resumed(
    folder: Path, kept: tuple[str, ...]
) -> None:
    kill_a_holder(folder, *kept)
    assert (folder / LOCK_FILE).exists()
    begin(folder, resume=True)
    assert not (folder / LOCK_FILE).exists()


def test_a_folder_with_something_in_it_needs_resume(folder: Path) -> None:
    begin(folder, keep="recipe.json")
    with pytest.raises(RunError, match=r"expected an empty one, got 1 entries: .*--resume"):
        begin(folder)


def test_a_folder_that_is_not_there_is_not_resumed_and_not_made(folder: Path) -> None:
    with pytest.raises(RunError, match=r"expected one to go on with, got nothing in it: .*--resume"):
        begin(folder, resume=True)
    assert not folder.exists()


def test_an_empty_folder_is_not_resumed_and_stays(folder: Path) -> None:
    folder.mkdir(parents=True)
    with pytest.raises(RunError, match="expected one to go on with, got nothing in it"):
        begin(folder, resume=True)
    assert list(folder.iterdir()) == []


def test_what_is_left_of_a_refused_start_counts_as_empty(folder: Path) -> None:
    begin(folder, keep="attach.json")
    with hold(folder, resume=False, counts_as_empty={"attach.json"}):
        pass


def test_a_folder_in_which_nothing_was_kept_is_removed(folder: Path) -> None:
    begin(folder)
    assert not folder.exists()


def test_an_output_that_is_a_file_is_refused(folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()
    with pytest.raises(RunError, match="expected a folder, got a file"):
        begin(folder, resume=True)


def test_a_folder_below_a_file_cannot_be_made(folder: Path) -> None:
    folder.parent.touch()
    with pytest.raises(RunError, match=r"runs/tiny: cannot be made: Not a directory"):
        make_writable(folder)


def test_a_folder_that_is_checked_stays_only_where_it_holds_something(tmp_path: Path) -> None:
    (tmp_path / "published" / "1").mkdir(parents=True)

    check_writable(tmp_path / "published")
    check_writable(tmp_path / "tried")

    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_an_id_is_made_once_and_other_folders_have_others(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert run_id(tmp_path) == run_id(tmp_path) != run_id(tmp_path / "other")
