"""What a watched job looks like; as a whole it is in test_training_commands.py."""

import sys

import pytest

from serving.api.wire import training
from serving.client.training_display import Bars


def begin(seconds: float, epochs_done: int = 0) -> training.Event:
    begun = training.GenerationEvent(generation=1, epochs=4, epochs_done=epochs_done, steps_per_epoch=10)
    return training.Event(time_seconds=seconds, generation=begun)


def step(seconds: float, number: int, left: float | None) -> training.Event:
    done = training.StepEvent(generation=1, step=number, steps=40, seconds_left=left)
    return training.Event(time_seconds=seconds, step=done)


def epoch(seconds: float, number: int) -> training.Event:
    done = training.EpochEvent(generation=1, epochs=4, epochs_done=number, loss=0.5, tune_accuracy=[0.25])
    return training.Event(time_seconds=seconds, epoch=done)


def shown(capsys: pytest.CaptureFixture[str], *events: training.Event) -> str:
    """Show events; gives the last line as it stands."""
    bars = Bars()
    for event in events:
        bars.show(event)
    bars.close()
    return capsys.readouterr().err.split("\r")[-1].strip()


def test_a_bar_has_the_jobs_own_times(capsys: pytest.CaptureFixture[str]) -> None:
    line = shown(capsys, begin(1000), step(4700, 10, 7325.4), epoch(4700, 1))

    assert line.startswith("generation 1, epoch 1/4 |█████               | 1:01:40 < 2:02:05, loss 0.500")


def test_a_bar_begins_where_the_job_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, begin(0, epochs_done=2)).startswith("generation 1, epoch 2/4 |██████████          |")


def test_a_finished_generation_has_a_full_bar_and_nothing_left(capsys: pytest.CaptureFixture[str]) -> None:
    line = shown(capsys, begin(0), step(5, 39, 0.3), epoch(6, 4))

    assert "|████████████████████| 00:06 < 00:00, loss" in line


def test_an_unknown_rest_is_a_question_mark(capsys: pytest.CaptureFixture[str]) -> None:
    assert "| 00:05 < ?" in shown(capsys, begin(0), step(5, 10, None))


def test_a_watch_that_begins_behind_the_generation_has_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, epoch(60, 3)).startswith("generation 1, epoch 3/4, ")


def test_without_tqdm_there_are_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)

    line = shown(capsys, begin(0), step(61, 20, 61), epoch(61, 2))

    assert line == "generation 1, epoch 2/4, 01:01 < 01:01, loss 0.500, tune accuracy by exit 25.0%"
