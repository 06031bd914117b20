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
    run = BatchRun(np.full((batch.rows, runner.classes), np.nan, dtype=np.float32))
    host_inputs = batch.inputs() if batch.stage == 0 else {"rows": batch.source_slots()}
    _run_rows(runner, batch, host_inputs, slice(0, batch.rows), run)
    return run


def _run_rows(
    runner: StageRunner, batch: Batch, host_inputs: InputArrays, part: slice, run: BatchRun
) -> None:
    inputs = {name: array[part] for name, array in host_inputs.items()}
    try:
        run.logits_BK[part] = runner.run(batch.stage, inputs, batch.destination + part.start)
    except Exception as error:  # onnxruntime raises a class of its own for each status
        if part.stop - part.start == 1:
            run.failures[part.start] = error
            return
        middle = (part.start + part.stop) // 2
        _run_rows(runner, batch, host_inputs, slice(part.start, middle), run)
        _run_rows(runner, batch, host_inputs, slice(middle, part.stop), run)
