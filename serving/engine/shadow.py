"""Rows drawn at random whose full-depth answer is also learnt, after they were answered.

Which rows are drawn is decided at admission, each with the same chance, before anything is known of
them: rows drawn among early leavers alone would make a promise about *all* answers look broken. A
drawn row that reached the final exit has nothing more to learn. One that left early waits here, its
pixels copied, until a worker has nothing else to do; then a few run together from the first stage to
the last, each as a request of its own, so that one that fails spoils no other. Under load nothing runs,
the room here fills, and the oldest is lost: counted, never guessed.
Knows nothing of what is made of the answers.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from serving.engine.costs import StageCosts
from serving.engine.request import Answers, InputArrays

MAX_WAITING = 64
"""How many rows may wait; one more, and the oldest is lost."""
LONGEST_SECONDS = 5e-3
"""How long a worker may be away with shadow rows, by what their stages were measured to take."""
GATHERED_ROWS = 8
GATHERED_SECONDS = 0.25
"""Rows wait until so many can run together, or the first has waited so long."""


class Draws:
    """Picks rows, each with the same chance, at the cost of a subtraction a request."""

    def __init__(self, share: float, seed: int | None = None) -> None:
        """Take the chance, 0 for none; a seed for draws that repeat."""
        self._share = share
        self._random = random.Random(seed)  # noqa: S311 - nothing is to be kept secret
        self._passed_by = self._gap()

    def among(self, rows: int) -> list[int]:
        """Give the numbers of the rows drawn among so many that come next."""
        drawn = []
        while self._passed_by < rows:
            drawn.append(int(self._passed_by))
            self._passed_by += 1 + self._gap()
        self._passed_by -= rows
        return drawn

    def _gap(self) -> float:
        """Draw how many rows are passed by before the next one: geometric."""
        if self._share <= 0:
            return float("inf")
        if self._share >= 1:
            return 0
        return float(np.log1p(-self._random.random()) // np.log1p(-self._share))


@dataclass(frozen=True, slots=True, eq=False)
class ShadowRow:
    """A row that was answered early, and what its full-depth answer will be held against."""

    inputs: InputArrays
    """Copies, each [1, ...]."""
    label: int
    answered_seconds: float
    learnt: Callable[[bool], None]
    """Told whether the full-depth answer agrees."""
    lost: Callable[[], None]
    """Told where it will never be known."""


class Shadows:
    """The rows that wait for their full-depth answer, and those that run."""

    def __init__(self, rows_a_run: int) -> None:
        self._rows_a_run = rows_a_run
        self._waiting: deque[ShadowRow] = deque()
        self._running: list[ShadowRow] = []

    @property
    def rows_running(self) -> int:
        """How many run now."""
        return len(self._running)

    @property
    def some_wait(self) -> bool:
        """Whether some wait."""
        return bool(self._waiting)

    def add(self, row: ShadowRow) -> None:
        """Have a row wait; the oldest is lost where there is no room."""
        if len(self._waiting) == MAX_WAITING:
            self._waiting.popleft().lost()
        self._waiting.append(row)

    def give_up_before(self, seconds: float) -> None:
        """Lose the rows that were answered before that time."""
        while self._waiting and self._waiting[0].answered_seconds < seconds:
            self._waiting.popleft().lost()

    def due(self, now: float) -> bool:
        """Whether it pays to run some, if a worker has nothing else to do."""
        if self._running or not self._waiting:
            return False
        enough = len(self._waiting) >= min(GATHERED_ROWS, self._rows_a_run)
        return enough or now - self._waiting[0].answered_seconds >= GATHERED_SECONDS

    def begin(self) -> list[ShadowRow]:
        """Take the rows that run next, until each has ended."""
        assert not self._running, "one run at a time"
        while self._waiting and len(self._running) < self._rows_a_run:
            self._running.append(self._waiting.popleft())
        return list(self._running)

    def end(self, row: ShadowRow, outcome: Answers | Exception) -> None:
        """Tell a row that ran what became of it."""
        self._running.remove(row)
        if isinstance(outcome, Exception):
            row.lost()
        else:
            row.learnt(int(outcome.label_R[0]) == row.label)


class ShadowReply:
    """A reply to nobody: the monitor is told, and it waits as long as it takes."""

    def __init__(self, settle: Callable[[Answers | Exception], None]) -> None:
        self.settle = settle

    def cancelled(self) -> bool:
        """Say no: who would cancel it."""
        return False


def rows_a_run(costs: StageCosts, stages: int) -> int:
    """Give how many rows run together, so that a worker is not away for long."""
    row_seconds = sum(costs.row_seconds(stage) for stage in range(stages))
    return max(1, min(costs.max_batch_size, int(LONGEST_SECONDS / row_seconds)))


def copy_of(inputs: InputArrays, row: int) -> InputArrays:
    """Copy one row, so that its request's arrays need not be kept."""
    return {name: array[row : row + 1].copy() for name, array in inputs.items()}
