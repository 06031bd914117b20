"""Runs a batch through its stages, and finds the rows that a stage fails on.

One bad row must not spoil the others of its batch: where a stage raises, the batch is halved until the
failing rows are alone, and the others run again without them. Knows no queue and no exit rule.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serving.engine.request import Batch
from serving.stages.blocks import Block


@dataclass
class Execution:
    """What running a batch gave."""

    logits_BK: NDArray[np.float32]
    """At the batch's exit; NaN in the rows that failed."""
    times: list[float]
    """When it started, and when each of its stages ended, on the monotonic clock."""
    failures: dict[int, Exception] = field(default_factory=dict)
    """By place in the batch, the rows on which a stage raises even alone."""

    @property
    def seconds(self) -> float:
        """How long the batch ran."""
        return self.times[-1] - self.times[0]


def execute(batch: Batch, blocks: Sequence[Block]) -> Execution:
    """Run every row that can run, in the batch's block of each of its stages."""
    times = [time.monotonic()]
    batch.fill(blocks[0].inputs)
    for before, block in pairwise(blocks):
        block.inputs["rows"][: batch.rows] = before.slots[: batch.rows]
    try:
        for block in blocks:
            logits_BK = block.run(batch.rows, all_cores=batch.all_cores)
            times.append(time.monotonic())
    except Exception as error:  # onnxruntime raises a class of its own for each status
        execution = Execution(np.full((batch.rows, blocks[-1].classes), np.nan, dtype=np.float32), times)
        _halve(execution, blocks, slice(0, batch.rows), error)
        times += [time.monotonic()] * (len(blocks) + 1 - len(times))
        return execution
    return Execution(logits_BK, times)


def _halve(execution: Execution, blocks: Sequence[Block], part: slice, error: Exception) -> None:
    """Run the halves of a part that raised, until the rows that raise are alone."""
    if part.stop - part.start == 1:
        execution.failures[part.start] = error
        return
    middle = (part.start + part.stop) // 2
    for half in (slice(part.start, middle), slice(middle, part.stop)):
        try:
            for block in blocks:
                logits_BK = block.run_part(half)
        except Exception as raised:
            _halve(execution, blocks, half, raised)
        else:
            execution.logits_BK[half] = logits_BK
