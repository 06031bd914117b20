"""Decides which rows of a batch leave at its exit, and writes their answers.

Shapes: `B` rows of the batch, `G` rows of a group.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from serving.engine.execution import Execution
from serving.engine.request import Answers, Batch, Request, Result, RowGroup
from serving.errors import StageFailed
from serving.exits.policy import STAYS, Bools, Floats, Integers, decide, read_exit
from serving.monitor.monitor import Monitor


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on every row of a batch that ran."""

    batch: Batch
    answers: Answers
    """An entry for every row of the batch; those of rows that stay mean nothing."""
    confidence_B: Floats
    leaves_B: Bools
    failures: dict[int, Exception]
    """By place in the batch, the rows on which a stage raised."""
    spoilt: bool
    """Whether some row may have failed: a stage raised on it, or gave NaN."""

    @classmethod
    def of(cls, batch: Batch, execution: Execution, temperature: float, *, final: bool) -> "Decision":
        """Decide for each row by its own request's exit rule; temperature is the exit's calibration."""
        readout = read_exit(execution.logits_BK, temperature)
        reason_B = decide(readout.confidence_B, batch.thresholds(), batch.capped(), final=final)
        answers = Answers(
            readout.label_B,
            readout.confidence_B.astype(np.float32),
            np.full(batch.rows, batch.exit, dtype=np.int32),
            reason_B.astype(np.int32),
            readout.probabilities_BK.astype(np.float32),
        )
        spoilt = bool(execution.failures) or math.isnan(np.add.reduce(readout.confidence_B))
        return cls(batch, answers, readout.confidence_B, reason_B != STAYS, execution.failures, spoilt)

    def result(self, group: RowGroup, place: slice, leaving: int) -> Result | None:
        """Return what a group's request ends with now, if it does; `leaving` of its rows leave here."""
        failure = self._failure(place) if self.spoilt else None
        if failure is not None:
            return failure
        return self._answer(group, place, leaving) if leaving else None

    def _answer(self, group: RowGroup, place: slice, leaving: int) -> Answers | None:
        request = group.request
        if leaving == request.rows:
            return self.answers.part(place)
        at_G = np.flatnonzero(self.leaves_B[place])
        return request.add_answers(group.rows_G[at_G], self.answers, at_G + place.start)

    def _failure(self, place: slice) -> StageFailed | None:
        for row in sorted(self.failures):
            if place.start <= row < place.stop:
                failed = StageFailed("a stage raised on a row of this request")
                failed.__cause__ = self.failures[row]
                return failed
        if np.isnan(self.confidence_B[place][self.leaves_B[place]]).any():
            stage = self.batch.exit
            return StageFailed(f"stage {stage} gave NaN on a row of this request that had to leave there")
        return None


@dataclass(slots=True)
class Finished:
    """What becomes of a batch's requests and rows."""

    decision: Decision
    ended: list[tuple[Request, Result]] = field(default_factory=list)
    """Requests that end with this batch, with what they end with."""
    shadows_ended: list[tuple[Request, Result]] = field(default_factory=list)
    left: list[tuple[Request, slice]] = field(default_factory=list)
    """Of each request with rows that leave, the place of its group in the batch."""
    followed: list[tuple[Request, Integers]] = field(default_factory=list)
    """Shadow requests of rows that leave, with the rows' places in the batch."""


def finish(batch: Batch, decision: Decision, monitor: Monitor) -> Finished:
    """Collect the answers and failures of a batch's requests; the rest of their rows goes on."""
    finished = Finished(decision)
    for (group, place), leaving in zip(batch.parts(), batch.count(decision.leaves_B), strict=True):
        request = group.request
        if request.closed:
            continue
        result = decision.result(group, place, leaving)
        if request.is_shadow:
            if result is not None:
                finished.shadows_ended.append((request, result))
            continue
        if result is not None:
            finished.ended.append((request, result))
        if leaving and not isinstance(result, Exception):
            finished.left.append((request, place))
            if request.sampled_rows:
                finished.followed += _follow(batch, decision, monitor, group, place)
    return finished


def _follow(
    batch: Batch, decision: Decision, monitor: Monitor, group: RowGroup, place: slice
) -> Iterator[tuple[Request, Integers]]:
    at_B = np.flatnonzero(decision.leaves_B[place]) + place.start
    rows = group.rows_G[at_B - place.start]
    shadow = monitor.follow(group.request, rows, batch.exit, decision.answers.label_R[at_B])
    if shadow is not None:
        request, at = shadow
        yield request, at_B[at]
