"""Progress of a study: the number of finished networks and the remaining time."""

import time
from collections.abc import Iterator
from datetime import timedelta

from training.born_again.checkpoint import EpochResult
from training.born_again.progress import ProgressBar


class StudyProgress(ProgressBar):
    """One bar per network, after a line with the network's number and the remaining time.

    The remaining time is the estimate for all remaining epochs. It is multiplied by the ratio of measured to
    estimated time of the finished epochs. Epochs with a teacher have a higher estimate.
    """

    def __init__(self, seconds_of_networks: list[float], *, done: int, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._estimates: Iterator[float] = iter(seconds_of_networks[done:])
        self._networks, self._number = len(seconds_of_networks), done
        self._estimate_left = sum(seconds_of_networks[done:])
        self._estimate = 0.0
        self._done_estimate = self._done_seconds = 0.0
        self._began = 0.0

    @property
    def seconds_left(self) -> float:
        """Estimated seconds for all epochs that are not finished."""
        pace = self._done_seconds / self._done_estimate if self._done_estimate else 1.0
        return pace * self._estimate_left

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        """Show the network's number and the remaining time."""
        self._number += 1
        self._estimate = next(self._estimates, 0.0) / epochs
        self._estimate_left -= self._estimate * epochs_done
        self.say(f"network {self._number} of {self._networks}, {about(self.seconds_left)} left for all")
        super().begin(generation, epochs=epochs, epochs_done=epochs_done, steps_per_epoch=steps_per_epoch)
        self._began = time.monotonic()

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        """Update the pace with a finished epoch."""
        now = time.monotonic()
        self._done_seconds += now - self._began
        self._done_estimate += self._estimate
        self._estimate_left -= self._estimate
        self._began = now
        super().epoch(epochs_done, epoch)


def about(seconds: float) -> str:
    """Format an estimated duration."""
    return f"about {timedelta(seconds=round(seconds))}"
