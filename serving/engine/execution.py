"""Runs a batch through its stages, and finds the rows on which a stage fails.

A bad row must not fail the other rows of its batch. If a stage raises, the batch is halved until each
failing row is alone; the other rows run again without them. Independent of queues and exit rules.
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
    """The result of running a batch."""

    logits_BK: NDArray[np.float32]
    """Logits at the batch's exit; NaN in failed rows."""
    times: list[float]
    """The start of the batch and the end of each stage that ran, in monotonic seconds.

    After a failure, the time of the failing stage includes all runs of the halves. Later stages that ran on a
    half then have no length.
    """
    failures: dict[int, Exception] = field(default_factory=dict)
    """The error of each failing row, by position in the batch. Such a row fails even if it runs alone."""

    @property
    def seconds(self) -> float:
        """Duration of the batch."""
        return self.times[-1] - self.times[0]


def execute(batch: Batch, blocks: Sequence[Block]) -> Execution:
    """Run the batch in its blocks, one for each stage; record the rows that fail."""
    times = [time.monotonic()]
    batch.fill(blocks[0].inputs)
    for before, block in pairwise(blocks):
        block.inputs["rows"][: batch.rows] = before.slots[: batch.rows]
    try:
        for block in blocks:
            logits_BK = block.run(batch.rows, all_cores=batch.all_cores)
            times.append(time.monotonic())
    except Exception as error:  # onnxruntime has a separate exception class for each status
        execution = Execution(np.full((batch.rows, blocks[-1].classes), np.nan, dtype=np.float32), times)
        stages_run = max(len(times), _halve(execution, blocks, slice(0, batch.rows), error))
        times += [time.monotonic()] * (stages_run + 1 - len(times))
        return execution
    return Execution(logits_BK, times)


def _halve(execution: Execution, blocks: Sequence[Block], part: slice, error: Exception) -> int:
    """Run the two halves of a part that raised, recursively, until each failing row is alone.

    Return the largest number of stages that ran on a half; a stage that raised counts.
    """
    if part.stop - part.start == 1:
        execution.failures[part.start] = error
        return 0
    stages_run = 0
    middle = (part.start + part.stop) // 2
    for half in (slice(part.start, middle), slice(middle, part.stop)):
        try:
            for number, block in enumerate(blocks, 1):
                stages_run = max(stages_run, number)
                logits_BK = block.run_part(half)
        except Exception as raised:
            stages_run = max(stages_run, _halve(execution, blocks, half, raised))
        else:
            execution.logits_BK[half] = logits_BK
    return stages_run
