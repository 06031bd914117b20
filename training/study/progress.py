"""Shows how far a study is: which network of how many, and how long the rest will take."""

import time
from collections.abc import Iterator
from datetime import timedelta

from training.born_again.checkpoint import EpochResult
from training.born_again.progress import ProgressBar


class StudyProgress(ProgressBar):
    """A bar a network, with a line before it that counts networks and says the time left.

    The time is told from the epochs seen so far, each weighed by what such an epoch was estimated to
    take: one under a teacher takes longer.
    """

    def __init__(self, seconds_of_networks: list[float], *, done: int, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._estimates: Iterator[float] = iter(seconds_of_networks[done:])
        self._networks, self._number = len(seconds_of_networks), done
        self._left = sum(seconds_of_networks[done:])
        self._estimate = 0.0
        self._seen_estimate = self._seen_seconds = 0.0
        self._began = 0.0

    @property
    def seconds_left(self) -> float:
        """Return the seconds that the networks not yet trained will take."""
        pace = self._seen_seconds / self._seen_estimate if self._seen_estimate else 1.0
        return pace * self._left

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        """Show which network begins."""
        self._number += 1
        self._estimate = next(self._estimates, 0.0) / epochs
        self._left -= self._estimate * epochs_done
        self.say(f"network {self._number} of {self._networks}, {about(self.seconds_left)} left for all")
        super().begin(generation, epochs=epochs, epochs_done=epochs_done, steps_per_epoch=steps_per_epoch)
        self._began = time.monotonic()

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        """Learn the pace from an epoch."""
        now = time.monotonic()
        self._seen_seconds += now - self._began
        self._seen_estimate += self._estimate
        self._left -= self._estimate
        self._began = now
        super().epoch(epochs_done, epoch)


def about(seconds: float) -> str:
    """Format an estimated time."""
    return f"about {timedelta(seconds=round(seconds))}"
