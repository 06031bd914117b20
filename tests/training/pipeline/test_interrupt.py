"""Stops real runs by a signal or by closing their standard input."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.training.stopped_run import Process, by, run_arguments, start_run, stop_in_training
from training.born_again.checkpoint import Checkpoint, CheckpointFolder, EpochResult
from training.born_again.progress import ProgressBar
from training.pipeline import interrupt
from training.pipeline.folder import RECIPE_FILE, RunFolder
from training.pipeline.from_recipe import train
from training.recipe.recipe import load_recipe


def close_stdin(process: Process) -> None:
    """Close the standard input of the run, as the end of its parent process does."""
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None


def interrupt_and_close_stdin(process: Process) -> None:
    process.send_signal(signal.SIGINT)
    close_stdin(process)


@pytest.mark.parametrize(
    "stop",
    [by(signal.SIGINT), by(signal.SIGTERM), close_stdin, interrupt_and_close_stdin],
    ids=["SIGINT", "SIGTERM", "end of stdin", "both"],
)
def test_a_stopped_run_exits_with_130_and_prints_how_to_resume(
    tmp_path: Path, longer_recipe: Path, stop: Callable[[Process], None]
) -> None:
    more = ["--set", "description=two words", "--model", "m", "--seed", "3", "--events", f"{tmp_path}/events"]
    code, stderr = stop_in_training(longer_recipe, tmp_path, stop, *more, "--stop-with-stdin")
    assert code == 130
    assert "Traceback" not in stderr
    command = ["python", "-m", "training", *run_arguments(longer_recipe, tmp_path, *more), "--resume"]
    assert stderr.splitlines()[-1] == f"interrupted; resume with: {shlex.join(command)}"
    assert list((tmp_path / "run").rglob(".*")) == []  # no draft is left


def test_an_interrupt_inside_exec_still_exits_with_130() -> None:
    """Imports and exports use `exec`. Without `interrupt.disable`, CPython would end with SIGINT."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.training.interrupted_in_exec"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (130, "")


def test_an_interrupt_is_deferred_to_the_end_of_imports() -> None:
    done = []

    def import_modules() -> None:
        with interrupt.deferred():
            interrupt._interrupt(signal.SIGTERM, None)
            done.append("imports")

    with pytest.raises(KeyboardInterrupt):
        import_modules()
    assert done == ["imports"]
    assert interrupt.was_interrupted()


@pytest.fixture(autouse=True)
def initial_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reset the state and the signal handlers for each test."""
    monkeypatch.setattr(interrupt, "_state", interrupt._State())
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_second_interrupt_right_after_the_first_is_ignored() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt._interrupt(signal.SIGINT, None)

    interrupt._interrupt(signal.SIGTERM, None)

    interrupt._state.interrupted_at -= interrupt._IGNORED_SECONDS
    with pytest.raises(KeyboardInterrupt):
        interrupt._interrupt(signal.SIGTERM, None)


def test_an_epoch_that_was_saved_is_shown_before_the_interrupt(
    tmp_path: Path, longer_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder, shown = load_recipe(str(longer_recipe)), RunFolder(tmp_path / "run"), list[int]()
    save = CheckpointFolder.save_checkpoint

    def save_and_interrupt(folder: CheckpointFolder, checkpoint: Checkpoint) -> None:
        save(folder, checkpoint)
        signal.raise_signal(signal.SIGTERM)

    class Progress(ProgressBar):
        def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
            super().epoch(epochs_done, epoch)
            shown.append(epochs_done)

    monkeypatch.setattr(CheckpointFolder, "save_checkpoint", save_and_interrupt)
    interrupt.install_handlers()
    dataset = recipe.dataset.load()
    folder.begin(recipe, dataset.digests)

    with pytest.raises(KeyboardInterrupt):
        train(recipe, dataset, folder, Progress(quiet=True))

    assert shown == [1]


def test_signals_are_ignored_inside_the_block() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]

    with interrupt.ignored():
        for number in numbers:
            signal.raise_signal(number)

    assert [signal.getsignal(number) for number in numbers] == handlers


def test_a_run_whose_stdin_has_ended_trains_nothing(tmp_path: Path, longer_recipe: Path) -> None:
    with start_run(longer_recipe, tmp_path, "--stop-with-stdin") as process:
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.startswith("interrupted; begin again with: ")
    assert not (tmp_path / "run" / RECIPE_FILE).exists()


def test_a_run_can_end_while_its_stdin_is_open(tmp_path: Path, longer_recipe: Path) -> None:
    with start_run(longer_recipe, tmp_path, "--stop-with-stdin", "--set", "no=key") as process:
        assert process.wait(60) == 2


def test_stop_with_stdin_is_refused_without_a_stdin(tmp_path: Path, longer_recipe: Path) -> None:
    command = [sys.executable, "-m", "training", *run_arguments(longer_recipe, tmp_path, "--stop-with-stdin")]
    finished = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} <&-"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert finished.stderr == "offramp: error: --stop-with-stdin: expected an open standard input, got none\n"
