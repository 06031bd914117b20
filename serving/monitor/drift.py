"""Detects drift: compares the distribution of live rows with a baseline.

If early and final exits fail together, they still agree, but rows leave at other exits than before. The
distance is the population stability index over a window of rows: the sum over cells of
`(now - baseline)·ln(now / baseline)`. Drift only raises an alarm; it never changes the thresholds.
Independent of the meaning of the cells.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Floats

_LEAST_ROWS = 0.5
"""The count of an empty cell, so that its logarithm is finite."""


def stability_index(counts_C: NDArray[np.number], baseline_C: Floats) -> float:
    """Return the distance between counted rows and baseline shares; 0 if they are equal.

    By convention 0.1 is a moderate shift and 0.25 a major one. For a few cells, a thousand rows from the
    baseline's distribution give less than 0.02.
    """
    rows = counts_C.sum()
    now_C = np.maximum(counts_C, _LEAST_ROWS) / rows
    then_C = np.maximum(baseline_C, _LEAST_ROWS / rows)
    return float(((now_C - then_C) * np.log(now_C / then_C)).sum())


class DriftWatch:
    """Compares consecutive windows of rows with the baseline's shares."""

    def __init__(
        self, baseline_C: Sequence[float], edges: Sequence[float], *, window_rows: int, alarm: float
    ) -> None:
        """Start an empty window.

        edges: edges between the cells, ascending, one fewer than shares. A value equal to an edge belongs
        to the cell above it. alarm: the largest index that raises no alarm.
        """
        self._baseline_C = np.asarray(baseline_C, dtype=np.float64)
        self._edges = np.asarray(edges, dtype=np.float64)
        self._values: list[float] = []
        self._window_rows = window_rows
        self._alarm = alarm
        self.index = 0.0
        """Stability index of the last complete window."""

    @property
    def alarmed(self) -> bool:
        """Whether the last complete window exceeded the alarm level."""
        return self.index > self._alarm

    def add(self, values: Iterable[float]) -> bool:
        """Add one value per row; return whether they completed a window."""
        self._values.extend(values)
        if len(self._values) < self._window_rows:
            return False
        cells = np.searchsorted(self._edges, self._values, side="right")
        self.index = stability_index(np.bincount(cells, minlength=len(self._baseline_C)), self._baseline_C)
        self._values.clear()
        return True
