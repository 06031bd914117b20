"""The duration of batches in each stage, measured at warm-up. The scheduler sizes batches by it.

Concurrent batches have one intra-op thread each. While only one batch runs, it may use all cores.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

HAND_OVER_SECONDS = 250e-6
"""Cost of starting a batch in another thread: the wake-up, and contention for the interpreter's lock."""
ALL_CORES_SECONDS = 50e-6
"""A batch uses all cores only if it saves at least this much, because other processes may use them."""
MIN_BATCHING_GAIN = 2.0
"""Survivors wait to be merged only if large batches are much cheaper: a row alone must cost more than this
many times as much as a row in the largest batch."""


class StageCosts:
    """The duration of batches, linear in rows: a line through the smallest and the largest measured size."""

    def __init__(self, seconds: Sequence[Mapping[int, float]], max_batch_size: int) -> None:
        """Fit the costs. seconds: measured seconds by number of rows, one mapping for each stage."""
        self.max_batch_size = max_batch_size
        lines = [_line(measured) for measured in seconds]
        self._fixed_before = [0.0, *accumulate(fixed for fixed, _ in lines)]
        """By stage: the constant part of a batch's cost, summed over the stages before it."""
        self._per_row_before = [0.0, *accumulate(per_row for _, per_row in lines)]
        all_stages = range(len(lines))
        self.batching_pays = self.seconds(all_stages, 1) > MIN_BATCHING_GAIN * self.row_seconds(all_stages)
        """Whether large batches are much cheaper per row: true on a GPU, rarely on a CPU."""

    def seconds(self, stages: range, rows: int) -> float:
        """Return the duration of one batch in consecutive stages."""
        fixed = self._fixed_before[stages.stop] - self._fixed_before[stages.start]
        return fixed + rows * (self._per_row_before[stages.stop] - self._per_row_before[stages.start])

    def row_seconds(self, stages: range) -> float:
        """Return the time per row of the largest batch in consecutive stages."""
        return self.seconds(stages, self.max_batch_size) / self.max_batch_size


@dataclass(frozen=True)
class MeasuredCosts:
    """The costs of batches on one device."""

    side_by_side: StageCosts
    """With one intra-op thread."""
    all_cores: StageCosts
    """With all cores, while no other batch runs."""

    def all_cores_pay(self, stages: range, rows: int, share: int) -> bool:
        """Return whether all cores run `rows` rows faster than one thread runs `share` rows."""
        return self.all_cores.seconds(stages, rows) + ALL_CORES_SECONDS < self.side_by_side.seconds(
            stages, share
        )


def batch_sizes(largest: int) -> Iterator[int]:
    """Yield the batch sizes to measure: the powers of two below the largest, then the largest."""
    rows = 1
    while rows < largest:
        yield rows
        rows *= 2
    yield largest


def _line(measured: Mapping[int, float]) -> tuple[float, float]:
    """Return the seconds per batch and per row of the fitted line."""
    fewest, most = min(measured), max(measured)
    if fewest == most:
        return 0.0, measured[most] / most
    per_row = max(0.0, measured[most] - measured[fewest]) / (most - fewest)
    return max(0.0, measured[fewest] - fewest * per_row), per_row
