"""Runs a batch through its stage, and finds the rows that a stage cannot stand.

One bad row must not spoil its batch-mates: where the stage raises, the batch is halved until the
culprits are alone, and the others run again without them. Knows no queue and no rule.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.engine.request import Batch, InputArrays
from serving.engine.stages import StageRunner
from serving.errors import StageFailed


@dataclass
class BatchRun:
    """What became of a batch in its stage."""

    logits_BK: NDArray[np.float32]
    """NaN in the rows that failed."""
    failures: dict[int, Exception] = field(default_factory=dict)
    """By place in the batch, the rows on which the stage raises even alone."""

    def failure_in(self, place: slice) -> StageFailed | None:
        """Give the error of a group's first failing row, with onnxruntime's as its cause."""
        for row in sorted(self.failures):
            if place.start <= row < place.stop:
                failed = StageFailed("a stage raised on a row of this request")
                failed.__cause__ = self.failures[row]
                return failed
        return None


def run_batch(runner: StageRunner, batch: Batch) -> BatchRun:
    """Run every row of the batch that can run."""
    host_inputs = batch.inputs() if batch.stage == 0 else {"rows": batch.source_slots()}
    try:
        return BatchRun(runner.run(batch.stage, host_inputs, batch.destination, all_cores=batch.all_cores))
    except Exception as error:  # onnxruntime raises a class of its own for each status
        run = BatchRun(np.full((batch.rows, runner.classes), np.nan, dtype=np.float32))
        _halve(runner, batch, host_inputs, slice(0, batch.rows), error, run)
        return run


def _halve(
    runner: StageRunner, batch: Batch, host_inputs: InputArrays, part: slice, error: Exception, run: BatchRun
) -> None:
    """Run the halves of a part that raised, until the rows that raise are alone."""
    if part.stop - part.start == 1:
        run.failures[part.start] = error
        return
    middle = (part.start + part.stop) // 2
    for half in (slice(part.start, middle), slice(middle, part.stop)):
        inputs = {name: array[half] for name, array in host_inputs.items()}
        try:
            run.logits_BK[half] = runner.run(batch.stage, inputs, batch.destination + half.start)
        except Exception as raised:
            _halve(runner, batch, host_inputs, half, raised, run)
