"""Progress bars of a watched job. Whole jobs are watched in test_training_commands.py."""

import sys

import pytest

from serving.api.wire import training
from serving.client.training_display import Bars


def started(seconds: float, epochs_done: int = 0) -> training.Event:
    generation = training.GenerationEvent(generation=1, epochs=4, epochs_done=epochs_done, steps_per_epoch=10)
    return training.Event(time_seconds=seconds, generation=generation)


def step(seconds: float, number: int, left: float | None) -> training.Event:
    done = training.StepEvent(generation=1, step=number, steps=40, seconds_left=left)
    return training.Event(time_seconds=seconds, step=done)


def epoch(seconds: float, number: int) -> training.Event:
    done = training.EpochEvent(generation=1, epochs=4, epochs_done=number, loss=0.5, tune_accuracy=[0.25])
    return training.Event(time_seconds=seconds, epoch=done)


def shown(capsys: pytest.CaptureFixture[str], *events: training.Event) -> str:
    """Show events and return the last line of the terminal."""
    bars = Bars()
    for event in events:
        bars.show(event)
    bars.close()
    return capsys.readouterr().err.split("\r")[-1].strip()


def test_a_bar_has_the_times_of_the_events(capsys: pytest.CaptureFixture[str]) -> None:
    line = shown(capsys, started(1000), step(4700, 10, 7325.4), epoch(4700, 1))

    assert line.startswith("generation 1, epoch 1/4 |█████               | 1:01:40 < 2:02:05, loss 0.500")


def test_a_bar_of_a_resumed_job_starts_at_its_finished_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, started(0, epochs_done=2)).startswith(
        "generation 1, epoch 2/4 |██████████          |"
    )


def test_a_finished_generation_has_a_full_bar_and_no_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    line = shown(capsys, started(0), step(5, 39, 0.3), epoch(6, 4))

    assert "|████████████████████| 00:06 < 00:00, loss" in line


def test_an_unknown_time_left_is_a_question_mark(capsys: pytest.CaptureFixture[str]) -> None:
    assert "| 00:05 < ?" in shown(capsys, started(0), step(5, 10, None))


def test_a_watch_that_begins_within_a_generation_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, epoch(60, 3)).startswith("generation 1, epoch 3/4, ")


def test_without_tqdm_each_epoch_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)

    line = shown(capsys, started(0), step(61, 20, 61), epoch(61, 2))

    assert line == "generation 1, epoch 2/4, 01:01 < 01:01, loss 0.500, tune accuracy by exit 25.0%"
