"""Runs a batch through its stages, and finds the rows that a stage cannot stand.

One bad row must not spoil its batch-mates: where a stage raises, the batch is halved until the
culprits are alone, and the others run again without them. Knows no queue and no rule.
"""

import time
from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

from serving.engine.request import Batch
from serving.engine.stages import StageRun, StageRunner
from serving.errors import StageFailed


class BatchRun:
    """A batch on its way through its stages: made ready, run, and what became of it.

    Made ready where the batch was formed, so that the thread that runs it does nothing else: two
    threads that both run Python keep each other waiting.
    """

    def __init__(self, runner: StageRunner, batch: Batch, *, on_all_cores: Container[int] = ()) -> None:
        """Take the stages that may have all cores."""
        self.batch = batch
        self.failures: dict[int, Exception] = {}
        """By place in the batch, the rows on which a stage raises even alone."""
        self.times: list[float] = []
        """When it started, and when it came out of each stage, on the monotonic clock."""
        self._runner = runner
        self._on_all_cores = on_all_cores
        self._host_inputs = batch.inputs() if batch.stage == 0 else {"rows": batch.source_slots()}
        self._stage_runs = self._prepare(slice(0, batch.rows), batch.padded_rows)
        self.logits_BK: NDArray[np.float32] = self._stage_runs[-1].logits_BK
        """At the exit; NaN in the rows that failed."""

    @property
    def nothing_ran(self) -> bool:
        """Whether every row failed."""
        return len(self.failures) == self.batch.rows

    def execute(self) -> None:
        """Run every row that can run; in any thread."""
        self.times = [time.monotonic()]
        try:
            for stage_run in self._stage_runs:
                stage_run.execute()
                self.times.append(time.monotonic())
        except Exception as error:  # onnxruntime raises a class of its own for each status
            self.logits_BK = np.full_like(self.logits_BK, np.nan)
            self._halve(slice(0, self.batch.rows), error)
            self.times += [time.monotonic()] * (len(self._stage_runs) + 1 - len(self.times))

    def failure_in(self, place: slice) -> StageFailed | None:
        """Give the error of a group's first failing row, with onnxruntime's as its cause."""
        for row in sorted(self.failures):
            if place.start <= row < place.stop:
                failed = StageFailed("a stage raised on a row of this request")
                failed.__cause__ = self.failures[row]
                return failed
        return None

    def _prepare(self, part: slice, padded_rows: int = 0) -> list[StageRun]:
        """Make a part of the batch ready for each stage; the features of one are the inputs of the next."""
        inputs = {name: array[part] for name, array in self._host_inputs.items()}
        runs: list[StageRun] = []
        for stage, start in zip(self.batch.stages, self.batch.destinations, strict=True):
            destination = start + part.start
            runs.append(
                self._runner.prepare(
                    stage,
                    inputs,
                    destination,
                    all_cores=stage in self._on_all_cores,
                    padded_rows=padded_rows,
                )
            )
            inputs = {"rows": np.arange(destination, start + part.stop)}
        return runs

    def _halve(self, part: slice, error: Exception) -> None:
        """Run the halves of a part that raised, until the rows that raise are alone."""
        if part.stop - part.start == 1:
            self.failures[part.start] = error
            return
        middle = (part.start + part.stop) // 2
        for half in (slice(part.start, middle), slice(middle, part.stop)):
            try:
                stage_runs = self._prepare(half)
                for stage_run in stage_runs:
                    stage_run.execute()
            except Exception as raised:
                self._halve(half, raised)
            else:
                self.logits_BK[half] = stage_runs[-1].logits_BK
