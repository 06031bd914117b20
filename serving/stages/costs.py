"""What a batch costs in each stage, measured at warm-up: what batch sizes and threads are decided by.

Batches that run side by side have one intra-op thread each; a batch that runs alone may use all cores.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

HAND_OVER_SECONDS = 250e-6
"""What it costs to start a batch in another thread: waking it, and both waiting for the interpreter."""
ALL_CORES_SECONDS = 50e-6
"""What all cores have to save for a batch to use them: they may be busy with something else."""


BATCHING_PAYS = 2.0
"""Where a row alone costs so many times more than in the largest batch, survivors wait for others."""


class StageCosts:
    """Seconds of each stage by batch size, as a straight line through the smallest and largest measured."""

    def __init__(self, seconds: Sequence[Mapping[int, float]], max_batch_size: int) -> None:
        """Take measured seconds by rows, a mapping for each stage."""
        self.max_batch_size = max_batch_size
        lines = [_line(measured) for measured in seconds]
        self._fixed_before = [0.0, *accumulate(fixed for fixed, _ in lines)]
        """By stage: what a batch costs in the stages before it, however many rows it has."""
        self._of_a_row_before = [0.0, *accumulate(of_a_row for _, of_a_row in lines)]
        every = range(len(lines))
        self.batching_pays = self.seconds(every, 1) > BATCHING_PAYS * self.row_seconds(every)
        """Whether a row costs far less in a large batch than alone: so on a GPU, hardly on a CPU."""

    def seconds(self, stages: range, rows: int) -> float:
        """Return the time of one batch in consecutive stages."""
        fixed = self._fixed_before[stages.stop] - self._fixed_before[stages.start]
        return fixed + rows * (self._of_a_row_before[stages.stop] - self._of_a_row_before[stages.start])

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


def _line(measured: Mapping[int, float]) -> tuple[float, float]:
    """Return the fixed seconds of a batch and those of each row."""
    fewest, most = min(measured), max(measured)
    if fewest == most:
        return 0.0, measured[most] / most
    of_a_row = max(0.0, measured[most] - measured[fewest]) / (most - fewest)
    return max(0.0, measured[fewest] - fewest * of_a_row), of_a_row
