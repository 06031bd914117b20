"""What a batch costs in each stage, measured at warm-up: what batch sizes and merging are decided by.

On a CPU a batch costs nearly what its rows cost apart, so small batches answer sooner at the same
throughput; on a GPU it costs little more than one row, so it pays to wait for a full one. The table
knows which, and nothing here does.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

HAND_OVER_SECONDS = 250e-6
"""What a batch costs beside its stage: forming it, deciding its exits, waking who runs it."""
NEARLY_BEST = 1.05
"""How much more than in the best batch a row may cost in an efficient one."""


class StageCosts:
    """Seconds of each stage at each batch size up to the largest, and the sizes that pay."""

    def __init__(self, seconds: Sequence[Mapping[int, float]], max_batch_size: int) -> None:
        """Take measured seconds by rows, a mapping a stage; what lies between is a straight line."""
        self.max_batch_size = max_batch_size
        self._seconds = [_fill(measured, max_batch_size) for measured in seconds]
        self._efficient_rows = [_efficient_rows(measured) for measured in seconds]
        self._row_seconds = [
            each[rows] / rows for each, rows in zip(self._seconds, self._efficient_rows, strict=True)
        ]

    def seconds(self, stage: int, rows: int) -> float:
        """Give the time of one batch."""
        return self._seconds[stage][rows]

    def row_seconds(self, stage: int) -> float:
        """Give the time of one row in an efficient batch."""
        return self._row_seconds[stage]

    def efficient_rows(self, stage: int) -> int:
        """Give the smallest batch in which a row costs nearly what it costs in the best one."""
        return self._efficient_rows[stage]


def batch_sizes(largest: int) -> Iterator[int]:
    """Give the powers of two below the largest batch, and that: what is measured, and padded to."""
    rows = 1
    while rows < largest:
        yield rows
        rows *= 2
    yield largest


@dataclass(frozen=True)
class MeasuredCosts:
    """What batches cost on one device."""

    side_by_side: StageCosts
    """With one intra-op thread, as under load."""
    alone: StageCosts
    """With all cores, while nothing else runs."""

    def takes_all_cores(self, stage: int, rows: int) -> bool:
        """Whether a batch that runs alone gains enough from all cores to wake them."""
        saved = self.side_by_side.seconds(stage, rows) - self.alone.seconds(stage, rows)
        return saved > HAND_OVER_SECONDS

    def lone_seconds(self, stages: Iterable[int], rows: int) -> float:
        """Give the time of a batch that runs alone through stages, each on all cores or on one."""
        return sum(
            (self.alone if self.takes_all_cores(stage, rows) else self.side_by_side).seconds(stage, rows)
            for stage in stages
        )


def _fill(measured: Mapping[int, float], max_batch_size: int) -> list[float]:
    """Give the seconds of 0 to max_batch_size rows; beyond the largest measured, in proportion."""
    known = sorted({0: 0.0, **measured}.items())
    filled = [0.0]
    for (before, start), (after, end) in pairwise(known):
        step = (end - start) / (after - before)
        filled += [start + step * number for number in range(1, after - before + 1)]
    largest, seconds = known[-1]
    filled += [seconds * rows / largest for rows in range(largest + 1, max_batch_size + 1)]
    return filled[: max_batch_size + 1]


def _efficient_rows(measured: Mapping[int, float]) -> int:
    row_seconds = {rows: (HAND_OVER_SECONDS + taken) / rows for rows, taken in sorted(measured.items())}
    enough = min(row_seconds.values()) * NEARLY_BEST
    return next(rows for rows, each in row_seconds.items() if each <= enough)
