"""What a batch costs in each stage, measured at warm-up: what batch sizes and threads are decided by.

Batches that run side by side have one intra-op thread each; a batch that runs alone may use all cores.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

HAND_OVER_SECONDS = 250e-6
"""What it costs to start a batch in another thread: waking it, and both waiting for the interpreter."""
ALL_CORES_SECONDS = 50e-6
"""What all cores have to save for a batch to use them: they may be busy with something else."""


BATCHING_PAYS = 2.0


class StageCosts:
    """Seconds of each stage at each batch size up to the largest."""

    def __init__(self, seconds: Sequence[Mapping[int, float]], max_batch_size: int) -> None:
        """Take measured seconds by rows, a mapping for each stage; between them a straight line is drawn."""
        self.max_batch_size = max_batch_size
        filled = [_fill(measured, max_batch_size) for measured in seconds]
        self._seconds_before = [[0.0, *accumulate(of_stages)] for of_stages in zip(*filled, strict=True)]
        """By rows, then by stage: the time that a batch takes in the stages before it."""
        last = [each[-1] / max_batch_size for each in filled]
        self.batching_pays = sum(each[1] for each in filled) > BATCHING_PAYS * sum(last)
        """Whether a row costs far less in a large batch than alone: so on a GPU, hardly on a CPU."""

    def seconds(self, stages: range, rows: int) -> float:
        """Return the time of one batch in consecutive stages."""
        before: list[float] = self._seconds_before[rows]
        return before[stages.stop] - before[stages.start]

    def row_seconds(self, stages: range) -> float:
        """Return the time of one row of the largest batch in consecutive stages."""
        return self.seconds(stages, self.max_batch_size) / self.max_batch_size


@dataclass(frozen=True)
class MeasuredCosts:
    """What batches cost on one device."""

    side_by_side: StageCosts
    """With one intra-op thread."""
    all_cores: StageCosts
    """With every core, while nothing else runs."""

    def all_cores_pay(self, stages: range, rows: int, share: int) -> bool:
        """Return whether all cores end a batch sooner than one thread would, for its rows or for a share."""
        return self.all_cores.seconds(stages, rows) + ALL_CORES_SECONDS < self.side_by_side.seconds(
            stages, share
        )


def batch_sizes(largest: int) -> Iterator[int]:
    """Yield the powers of two below the largest batch, and that: what is measured."""
    rows = 1
    while rows < largest:
        yield rows
        rows *= 2
    yield largest


def _fill(measured: Mapping[int, float], max_batch_size: int) -> list[float]:
    """Return the seconds of 0 to max_batch_size rows; beyond the largest measured, in proportion."""
    known = sorted({0: 0.0, **measured}.items())
    filled = [0.0]
    for (before, start), (after, end) in pairwise(known):
        step = (end - start) / (after - before)
        filled += [start + step * number for number in range(1, after - before + 1)]
    largest, seconds = known[-1]
    filled += [seconds * rows / largest for rows in range(largest + 1, max_batch_size + 1)]
    return filled[: max_batch_size + 1]
