"""Builds small queues and requests for them, so that a test can check every row."""

import math
from collections.abc import Sequence

import numpy as np

from serving.engine.queues import StageQueues
from serving.engine.request import Answers, Batch, Request
from serving.errors import RequestCancelled
from serving.exits.policy import ExitRule
from serving.stages.costs import MeasuredCosts, StageCosts

STAGES = 3
RULE = ExitRule((0.5, 0.5), 2)
EXACT = ExitRule((None, None), 2)

NO_ANSWERS = Answers(*[np.empty(0)] * 5)  # type: ignore[arg-type]
"""For tests that read no answers."""


def make_request(rows: int, deadline: float = math.inf, rule: ExitRule = RULE) -> Request:
    return Request({}, rows, rule, deadline, lambda _: None, admitted_seconds=0.0)


def cancel(request: Request) -> bool:
    return request.close(RequestCancelled("the test cancelled it"))


def flat_costs(max_batch_size: int = 4, seconds: float = 1.0) -> MeasuredCosts:
    """Return costs that are equal for batches of every size."""
    costs = StageCosts([{1: seconds, max_batch_size: seconds}] * STAGES, max_batch_size)
    return MeasuredCosts(costs, costs)


def costs_of_rows(
    max_batch_size: int = 4, seconds: float = 1.0, all_cores_seconds: float | None = None
) -> MeasuredCosts:
    """Return costs that are proportional to the rows of a batch."""
    side_by_side, all_cores = (
        StageCosts([{1: row_seconds, max_batch_size: row_seconds * max_batch_size}] * STAGES, max_batch_size)
        for row_seconds in (seconds, seconds if all_cores_seconds is None else all_cores_seconds)
    )
    return MeasuredCosts(side_by_side, all_cores)


def make_queues(costs: MeasuredCosts | None = None, blocks: Sequence[int] = (2, 2, 2)) -> StageQueues:
    return StageQueues(costs or flat_costs(), blocks)


def form(queues: StageQueues, now: float = 1.0, startable: int = 1, *, idle: bool = False) -> Batch:
    """Form a batch. Fails if nothing can run or if a request has expired."""
    expired: list[Request] = []
    batch = queues.next_batch(now, startable, expired, idle=idle)
    assert batch is not None
    assert expired == []
    return batch


def advance(queues: StageQueues, batch: Batch, *, leaves: bool | Sequence[bool]) -> None:
    leaves_B = np.broadcast_to(np.array(leaves), batch.rows)
    queues.advance(batch, leaves_B, batch.count(leaves_B), (), now=1.0)


def run_through(queues: StageQueues, request: Request, stages: int) -> None:
    """Admit a request and run it through the first `stages` stages."""
    queues.admit(request)
    for _ in range(stages):
        advance(queues, form(queues), leaves=False)


def row_numbers(batch: Batch) -> list[list[int]]:
    return [group.rows_G.tolist() for group in batch.groups]


def source_slots(batch: Batch) -> list[int]:
    """Return the slots that contain the features of the batch's rows."""
    return [slot for group in batch.groups for slot in group.slots_G.tolist()]
