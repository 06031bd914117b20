"""Progress of a study: its networks and the remaining time."""

import pytest

from training.born_again.checkpoint import EpochResult
from training.study import progress as progress_module
from training.study.progress import StudyProgress

EPOCH = EpochResult(1.0, (0.5,))


class Clock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def train(progress: StudyProgress, clock: Clock, seconds: float, *, epochs: int = 2, done: int = 0) -> None:
    progress.begin(0, epochs=epochs, epochs_done=done, steps_per_epoch=1)
    for number in range(done, epochs):
        clock.now += seconds
        progress.epoch(number + 1, EPOCH)
    progress.end()


def test_before_the_first_epoch_the_time_left_is_the_estimate(clock: Clock) -> None:
    assert StudyProgress([10.0, 20.0, 20.0], done=0, quiet=True).seconds_left == 50.0


def test_finished_networks_do_not_count(clock: Clock) -> None:
    assert StudyProgress([10.0, 20.0, 20.0], done=1, quiet=True).seconds_left == 40.0


def test_the_measured_pace_scales_the_time_left(clock: Clock) -> None:
    progress = StudyProgress([10.0, 20.0, 20.0], done=0, quiet=True)
    train(progress, clock, seconds=10.0)  # twice as long as estimated
    assert progress.seconds_left == pytest.approx(80.0)
    train(progress, clock, seconds=20.0)
    assert progress.seconds_left == pytest.approx(40.0)


def test_a_network_resumed_after_half_its_epochs_has_half_its_time_left(clock: Clock) -> None:
    progress = StudyProgress([10.0, 20.0], done=0, quiet=True)
    progress.begin(0, epochs=2, epochs_done=1, steps_per_epoch=1)
    assert progress.seconds_left == pytest.approx(25.0)


def test_each_network_is_announced_with_its_number(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = StudyProgress([60.0, 60.0, 3540.0], done=1)
    train(progress, clock, seconds=30.0)
    assert "network 2 of 3, about 1:00:00 left for all" in capsys.readouterr().err
