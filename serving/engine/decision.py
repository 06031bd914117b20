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
    """One entry for each row of the batch. Ignore the entries of rows that continue."""
    confidence_B: Floats
    leaves_B: Bools
    leaving_counts: list[int]
    """Number of leaving rows, by group."""
    ended_requests: list[tuple[Request, Result]]
    """Requests that end with this batch, and their results."""
    ended_shadows: list[tuple[Request, Result]]
    leaving_requests: list[tuple[Request, slice]]
    """Requests with leaving rows, and the position of their group in the batch."""
    new_shadows: list[tuple[Request, Integers]]
    """Shadow requests of leaving rows, and the positions of these rows in the batch."""

    def send(self) -> None:
        """Send the results. Keep in `ended_requests` only the requests that had not ended before."""
        ended = self.ended_requests
        self.ended_requests = [(request, result) for request, result in ended if request.close(result)]
        for shadow, result in self.ended_shadows:
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
    for (group, part), count in zip(batch.parts(), decision.leaving_counts, strict=True):
        request = group.request
        if request.closed or not (count or any_failed):
            continue
        failure = _failure(batch, execution, decision, part) if any_failed else None
        if failure is not None:
            _add_ended(decision, request, failure)
        elif count:
            decision.leaving_requests.append((request, part))
            if request.sampled_rows and not final:
                decision.new_shadows += _new_shadows(decision, monitor, group, part)
            if count == request.rows:
                _add_ended(decision, request, answers.part(part))
            else:
                leaving_G = np.flatnonzero(leaves_B[part])
                complete = request.add_answers(group.rows_G[leaving_G], answers.part(leaving_G + part.start))
                if complete is not None:
                    _add_ended(decision, request, complete)
    return decision


def _add_ended(decision: Decision, request: Request, result: Result) -> None:
    (decision.ended_shadows if request.is_shadow else decision.ended_requests).append((request, result))


def _failure(batch: Batch, execution: Execution, decision: Decision, part: slice) -> StageFailed | None:
    for row in sorted(execution.failures):
        if part.start <= row < part.stop:
            failed = StageFailed("a stage raised on a row of this request")
            failed.__cause__ = execution.failures[row]
            return failed
    if np.isnan(decision.confidence_B[part][decision.leaves_B[part]]).any():
        return StageFailed(f"stage {batch.exit} returned NaN for a row of this request that must leave there")
    return None


def _new_shadows(
    decision: Decision, monitor: Monitor, group: RowGroup, part: slice
) -> Iterator[tuple[Request, Integers]]:
    """Yield a shadow request for each sampled row of a group that leaves early."""
    for position, number in enumerate(group.rows_G.tolist(), start=part.start):
        if decision.leaves_B[position] and number in group.request.sampled_rows:
            shadow = monitor.follow(group.request, number, int(decision.answers.label_R[position]))
            if shadow is not None:
                yield shadow, np.array([position])
