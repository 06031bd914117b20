"""A run that another program stops, as it really is: by signal, or by letting go of its standard input."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.training.stopped_run import Process, by, run_arguments, start_run, stop_in_training
from training.run import interrupt
from training.run.folder import RECIPE_FILE


def let_go(process: Process) -> None:
    """End the run's standard input, as the end of the program that started it would."""
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None


def interrupt_and_let_go(process: Process) -> None:
    process.send_signal(signal.SIGINT)
    let_go(process)


@pytest.mark.parametrize(
    "stop",
    [by(signal.SIGINT), by(signal.SIGTERM), let_go, interrupt_and_let_go],
    ids=["SIGINT", "SIGTERM", "end of stdin", "both"],
)
def test_a_stop_is_exit_code_130_and_a_line_that_says_how_to_resume(
    tmp_path: Path, longer_recipe: Path, stop: Callable[[Process], None]
) -> None:
    more = ["--set", "description=two words", "--model", "m", "--seed", "3", "--events", f"{tmp_path}/events"]
    code, stderr = stop_in_training(longer_recipe, tmp_path, stop, *more, "--stop-with-stdin")
    assert code == 130
    assert "Traceback" not in stderr
    command = ["python", "-m", "training", *run_arguments(longer_recipe, tmp_path, *more), "--resume"]
    assert stderr.splitlines()[-1] == f"interrupted; resume with: {shlex.join(command)}"
    assert list((tmp_path / "run").rglob(".*")) == []  # nothing half-written


def test_an_interrupt_out_of_a_text_that_is_executed_is_exit_code_130_all_the_same() -> None:
    """Imports and exports execute texts; CPython would end itself by SIGINT."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.training.interrupted_in_exec"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.returncode, said.stderr) == (130, "")


def test_an_interrupt_waits_for_imports_to_end_and_is_known_to_have_come() -> None:
    done = []

    def import_much() -> None:
        with interrupt.held_back():
            interrupt._interrupt(signal.SIGTERM, None)
            done.append("imports")

    with pytest.raises(KeyboardInterrupt):
        import_much()
    assert done == ["imports"]
    assert interrupt.came()


@pytest.fixture(autouse=True)
def as_at_the_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test see what another one did to the process."""
    monkeypatch.setattr(interrupt, "_state", interrupt._State())
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_second_interrupt_at_once_does_not_break_into_what_the_first_set_off() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt._interrupt(signal.SIGINT, None)

    interrupt._interrupt(signal.SIGTERM, None)

    interrupt._state.came_seconds -= interrupt._SAME_WISH_SECONDS
    with pytest.raises(KeyboardInterrupt):
        interrupt._interrupt(signal.SIGTERM, None)


def test_a_stop_does_not_break_into_what_is_being_finished() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]

    with interrupt.finishing():
        for number in numbers:
            signal.raise_signal(number)

    assert [signal.getsignal(number) for number in numbers] == handlers


def test_a_run_whose_stdin_has_ended_trains_nothing(tmp_path: Path, longer_recipe: Path) -> None:
    with start_run(longer_recipe, tmp_path, "--stop-with-stdin") as process:
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.startswith("interrupted; begin again with: ")
    assert not (tmp_path / "run" / RECIPE_FILE).exists()


def test_an_open_stdin_keeps_no_run_from_ending(tmp_path: Path, longer_recipe: Path) -> None:
    with start_run(longer_recipe, tmp_path, "--stop-with-stdin", "--set", "no=key") as process:
        assert process.wait(60) == 2


def test_a_run_that_should_stop_with_a_stdin_that_it_has_not_is_refused(
    tmp_path: Path, longer_recipe: Path
) -> None:
    command = [sys.executable, "-m", "training", *run_arguments(longer_recipe, tmp_path, "--stop-with-stdin")]
    said = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)} <&-"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert said.stderr == "offramp: error: --stop-with-stdin: expected an open standard input, got none\n"
