"""Decides which rows of a batch leave at its exit, and which requests end with it.

Shapes: `B` rows of the batch, `G` rows of a group, `K` classes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from serving.engine.execution import Execution
from serving.engine.request import Answers, Batch, Request, Result, RowGroup
from serving.errors import StageFailed
from serving.exits.policy import CONTINUES, Bools, Floats, Integers, decide, read_exit
from serving.monitor.monitor import Monitor


@dataclass(slots=True)
class Decision:
    """The decision for every row of a finished batch, and for the requests of these rows."""

    answers: Answers
    """One entry for each row of the batch. Entries of rows that continue are meaningless."""
    confidence_B: Floats
    leaves_B: Bools
    leaving: list[int]
    """Number of leaving rows, by group."""
    ended: list[tuple[Request, Result]]
    """Requests that end with this batch, and their results."""
    shadows_ended: list[tuple[Request, Result]]
    left: list[tuple[Request, slice]]
    """Requests with leaving rows, and the position of their group in the batch."""
    followed: list[tuple[Request, Integers]]
    """Shadow requests of leaving rows, and the positions of these rows in the batch."""

    def send(self) -> None:
        """Send the results of the requests that end, and remove those that had ended before."""
        self.ended = [(request, result) for request, result in self.ended if request.close(result)]
        for shadow, result in self.shadows_ended:
            shadow.close(result)


def decide_batch(
    batch: Batch, execution: Execution, calibration_temperature: float, monitor: Monitor, *, final: bool
) -> Decision:
    """Apply each request's exit rule to its rows, and collect answers and failures."""
    readout = read_exit(execution.logits_BK, calibration_temperature)
    confidence_B = readout.confidence_B
    threshold_B, capped_B = batch.rules()
    reason_B = decide(confidence_B, threshold_B, capped_B, final=final)
    leaves_B = reason_B != CONTINUES
    answers = Answers.of(readout, batch.exit, reason_B)
    decision = Decision(answers, confidence_B, leaves_B, batch.count(leaves_B), [], [], [], [])
    # A row fails if a stage raised on it, or if it must leave here and its confidence is NaN.
    must_leave = final or capped_B is not False
    any_failed = bool(execution.failures) or (must_leave and math.isnan(np.add.reduce(confidence_B)))
    for (group, place), leaving in zip(batch.parts(), decision.leaving, strict=True):
        request = group.request
        if request.closed or not (leaving or any_failed):
            continue
        failure = _failure(batch, execution, decision, place) if any_failed else None
        if failure is not None:
            _end(decision, request, failure)
        elif leaving:
            decision.left.append((request, place))
            if request.sampled_rows and not final:
                decision.followed += _follow(decision, monitor, group, place)
            if leaving == request.rows:
                _end(decision, request, answers.part(place))
            else:
                at_G = np.flatnonzero(leaves_B[place])
                complete = request.add_answers(group.rows_G[at_G], answers.part(at_G + place.start))
                if complete is not None:
                    _end(decision, request, complete)
    return decision


def _end(decision: Decision, request: Request, result: Result) -> None:
    (decision.shadows_ended if request.is_shadow else decision.ended).append((request, result))


def _failure(batch: Batch, execution: Execution, decision: Decision, place: slice) -> StageFailed | None:
    for row in sorted(execution.failures):
        if place.start <= row < place.stop:
            failed = StageFailed("a stage raised on a row of this request")
            failed.__cause__ = execution.failures[row]
            return failed
    if np.isnan(decision.confidence_B[place][decision.leaves_B[place]]).any():
        return StageFailed(f"stage {batch.exit} gave NaN on a row of this request that had to leave there")
    return None


def _follow(
    decision: Decision, monitor: Monitor, group: RowGroup, place: slice
) -> Iterator[tuple[Request, Integers]]:
    """Yield a shadow request for each sampled row of a group that leaves early."""
    for at, number in enumerate(group.rows_G.tolist(), start=place.start):
        if decision.leaves_B[at] and number in group.request.sampled_rows:
            shadow = monitor.follow(group.request, number, int(decision.answers.label_R[at]))
            if shadow is not None:
                yield shadow, np.array([at])
