"""Progress of a long step as lines of text, for output that is not a terminal."""

import sys
import time
from collections.abc import Callable

from training.reporting.numerals import duration

SECONDS_BETWEEN_LINES = 10.0


class LineBar:
    """Prints a line every ten seconds and one at the end. Has the methods of tqdm that training uses."""

    def __init__(
        self, description: str, total: int, *, initial: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._description, self._postfix = description, ""
        self._total, self._initial, self._done = total, initial, initial
        self._clock = clock
        self._began = self._printed = clock()

    def update(self, count: int = 1) -> None:
        """Add finished work; print a line if the last one is at least ten seconds old."""
        self._done += count
        now = self._clock()
        if now - self._printed >= SECONDS_BETWEEN_LINES and self._done < self._total:
            self._printed = now
            pace = (now - self._began) / (self._done - self._initial)
            self._print(f"{duration(pace * (self._total - self._done))} left")

    def set_description_str(self, text: str, refresh: bool = True) -> None:  # noqa: ARG002 - as in tqdm
        """Replace the text before the figures."""
        self._description = text

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:  # noqa: ARG002 - as in tqdm
        """Replace the figures."""
        self._postfix = text

    def close(self) -> None:
        """Print the last line if the step is finished."""
        if self._done == self._total:
            self._print(f"done in {duration(self._clock() - self._began)}")

    def _print(self, time_text: str) -> None:
        parts = (self._description, self._postfix, time_text)
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)
