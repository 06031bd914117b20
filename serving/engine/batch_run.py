"""Runs a batch through its stage, and finds the rows that a stage cannot stand.

One bad row must not spoil its batch-mates: where the stage raises, the batch is halved until the
culprits are alone, and the others run again without them. Knows no queue and no rule.
"""

import time

import numpy as np
from numpy.typing import NDArray

from serving.engine.request import Batch
from serving.engine.stages import StageRunner
from serving.errors import StageFailed


class BatchRun:
    """A batch on its way through its stage: made ready, run, and what became of it.

    Made ready where the batch was formed, so that the thread that runs it does nothing else: two
    threads that both run Python keep each other waiting.
    """

    def __init__(self, runner: StageRunner, batch: Batch) -> None:
        self.batch = batch
        self.failures: dict[int, Exception] = {}
        """By place in the batch, the rows on which the stage raises even alone."""
        self.started_seconds = self.ended_seconds = 0.0
        """On the monotonic clock; 0 until then."""
        self._runner = runner
        self._inputs = batch.inputs() if batch.stage == 0 else {"rows": batch.source_slots()}
        self._stage_run = runner.prepare(
            batch.stage, self._inputs, batch.destination, all_cores=batch.all_cores
        )
        self.logits_BK: NDArray[np.float32] = self._stage_run.logits_BK
        """NaN in the rows that failed."""

    @property
    def nothing_ran(self) -> bool:
        """Whether the stage raised on every row."""
        return len(self.failures) == self.batch.rows

    def execute(self) -> None:
        """Run every row that can run; in any thread."""
        self.started_seconds = time.monotonic()
        try:
            self._stage_run.execute()
        except Exception as error:  # onnxruntime raises a class of its own for each status
            self.logits_BK = np.full_like(self.logits_BK, np.nan)
            self._halve(slice(0, self.batch.rows), error)
        self.ended_seconds = time.monotonic()

    def failure_in(self, place: slice) -> StageFailed | None:
        """Give the error of a group's first failing row, with onnxruntime's as its cause."""
        for row in sorted(self.failures):
            if place.start <= row < place.stop:
                failed = StageFailed("a stage raised on a row of this request")
                failed.__cause__ = self.failures[row]
                return failed
        return None

    def _halve(self, part: slice, error: Exception) -> None:
        """Run the halves of a part that raised, until the rows that raise are alone."""
        if part.stop - part.start == 1:
            self.failures[part.start] = error
            return
        middle = (part.start + part.stop) // 2
        for half in (slice(part.start, middle), slice(middle, part.stop)):
            inputs = {name: array[half] for name, array in self._inputs.items()}
            destination = self.batch.destination + half.start
            try:
                self.logits_BK[half] = self._runner.run(self.batch.stage, inputs, destination)
            except Exception as raised:
                self._halve(half, raised)
