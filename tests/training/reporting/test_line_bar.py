"""Progress as lines: their rhythm and their text."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.stopped_run import run_arguments
from training.__main__ import main
from training.reporting.line_bar import LineBar


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of_steps(bar: LineBar, clock: Clock, seconds: float, steps: int) -> Iterator[None]:
    """Advance the bar by one step at a time."""
    for _ in range(steps):
        clock.now += seconds
        bar.update()
        yield


def test_a_line_follows_at_least_ten_seconds_after_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bar = LineBar("heads", 100, clock=clock)

    for _ in lines_of_steps(bar, clock, seconds=4.0, steps=7):  # steps end after 4, 8, .. 28 s
        pass

    assert capsys.readouterr().err.splitlines() == ["heads, 6 min 28 s left", "heads, 6 min 16 s left"]


def test_the_time_left_follows_the_pace_of_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bar = LineBar("heads", 100, initial=80, clock=clock)

    clock.now += 20.0
    bar.update(10)

    assert capsys.readouterr().err == "heads, 20 s left\n"


def test_figures_stand_between_description_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bar = LineBar("epoch 0/2", 2, clock=clock)
    bar.set_description_str("epoch 1/2")
    bar.set_postfix_str("loss 0.5")

    clock.now += 10.0
    bar.update()

    assert capsys.readouterr().err == "epoch 1/2, loss 0.5, 10 s left\n"


def test_the_last_line_has_the_duration(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bar = LineBar("heads", 2, clock=clock)
    clock.now += 3.0
    bar.update(2)
    assert capsys.readouterr().err == ""

    bar.close()

    assert capsys.readouterr().err == "heads, done in 3 s\n"


def test_an_unfinished_step_has_no_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    bar = LineBar("heads", 2)
    bar.update()

    bar.close()

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("train", ["joint", "frozen"])
def test_a_run_without_a_terminal_prints_whole_lines(
    tmp_path: Path, tiny_recipe_file: Path, train: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = run_arguments(tiny_recipe_file, tmp_path, "--set", f"exits.train={train}")
    arguments += ["--set", "generations.count=1", "--set", "architecture.exits=2"]

    code = main(arguments)

    printed = capfdbinary.readouterr().err.decode()
    assert code == 0, printed
    assert "\r" not in printed
    lines = printed.splitlines()
    assert any(line.startswith("generation 0, epoch 2/2, loss ") for line in lines)
    assert any(line.startswith("heads, ") and "done in" in line for line in lines) == (train == "frozen")
