"""What is read off a batch at its exit: who leaves and why, and the answers of those who do.

Knows no queue: which slots and rows the scheduler then lets go is its own business.

Shapes: `B` rows of the batch, `G` rows of a group.
"""

import math
from dataclasses import dataclass

import numpy as np

from serving.engine.batch_run import BatchRun
from serving.engine.policy import STAYS, Bools, Integers, Readout, decide, read_exit
from serving.engine.request import Answers, RowGroup
from serving.errors import StageFailed
from serving.repository.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on every row of a batch that ran."""

    run: BatchRun
    readout: Readout
    reason_B: Integers
    """An ExitReason, or STAYS."""
    leaves_B: Bools

    @classmethod
    def of(cls, run: BatchRun, manifest: Manifest) -> "Decision":
        """Decide by each row's own rule."""
        batch = run.batch
        readout = read_exit(run.logits_BK, manifest.exits[batch.exit].calibration_temperature)
        final = batch.exit == len(manifest.stages) - 1
        reason_B = decide(readout.confidence_B, batch.thresholds(), batch.capped(), final=final)
        return cls(run, readout, reason_B, reason_B != STAYS)

    @property
    def spoilt(self) -> bool:
        """Whether some row may have failed: a stage raised on it, or gave NaN."""
        return bool(self.run.failures) or math.isnan(np.add.reduce(self.readout.confidence_B))

    def failure(self, place: slice) -> StageFailed | None:
        """Say why the request of a group fails here, if it does."""
        failure = self.run.failure_in(place)
        if failure is None and np.isnan(self.readout.confidence_B[place][self.leaves_B[place]]).any():
            stage = self.run.batch.exit
            return StageFailed(f"stage {stage} gave NaN on a row of this request that had to leave there")
        return failure

    def answer(self, group: RowGroup, place: slice, leaving: int) -> Answers | None:
        """Write the answers of a group's rows that leave, so many; give all where those were the last."""
        request, stage = group.request, self.run.batch.exit
        if leaving == request.rows:
            answers = Answers.at_once(self.readout, place, stage, self.reason_B)
        else:
            classes = self.readout.probabilities_BK.shape[1]
            answers = request.answers or Answers.empty(request.rows, classes)
            at_G = np.flatnonzero(self.leaves_B[place])
            at_B = at_G + place.start
            answers.write(group.rows_G[at_G], self.readout, at_B, stage, self.reason_B[at_B])
        request.answers = answers
        request.unanswered -= leaving
        if request.unanswered:
            return None
        request.closed = True
        answers.queue_seconds = request.queue_seconds
        return answers
