"""Whether what comes still looks like what the version was measured on: shares against a baseline.

Early and final exits can fail together, and then agreement says nothing; but rows stop leaving where
they used to leave. The distance is the population stability index over a window of rows,
`sum over cells of (now - baseline)·ln(now / baseline)`. It warns, and never changes what is served.
Knows nothing of what the cells are.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Floats

_LEAST_ROWS = 0.5
"""What an empty cell counts as, so that its logarithm is finite."""


def stability_index(counts_C: NDArray[np.number], baseline_C: Floats) -> float:
    """Return the distance of counted rows from baseline shares: 0 where equal.

    By custom 0.1 is a moderate shift and 0.25 a major one; a thousand rows like the baseline stay below
    0.02 for a few cells.
    """
    rows = counts_C.sum()
    now_C = np.maximum(counts_C, _LEAST_ROWS) / rows
    then_C = np.maximum(baseline_C, _LEAST_ROWS / rows)
    return float(((now_C - then_C) * np.log(now_C / then_C)).sum())


class DriftWatch:
    """Compares windows of rows, one after the other, with the baseline's shares."""

    def __init__(
        self, baseline_C: Sequence[float], edges: Sequence[float], *, window_rows: int, alarm: float
    ) -> None:
        """Take the baseline's shares of the cells, and the cells' rising edges, one fewer than shares.

        A value that equals an edge lies above it. alarm: the largest index that raises no alarm.
        """
        self._baseline_C = np.asarray(baseline_C, dtype=np.float64)
        self._edges = np.asarray(edges, dtype=np.float64)
        self._values: list[float] = []
        self._window_rows = window_rows
        self._alarm = alarm
        self.index = 0.0
        """Of the last whole window."""

    @property
    def alarmed(self) -> bool:
        """Whether the last whole window was too far off."""
        return self.index > self._alarm

    def add(self, values: Iterable[float]) -> bool:
        """Add a value a row; returns whether that completed a window."""
        self._values.extend(values)
        if len(self._values) < self._window_rows:
            return False
        cells = np.searchsorted(self._edges, self._values, side="right")
        self.index = stability_index(np.bincount(cells, minlength=len(self._baseline_C)), self._baseline_C)
        self._values.clear()
        return True
