"""Queues of few blocks, and requests for them, so that a test can follow every row."""

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
"""For tests that look at no answer."""


def make_request(rows: int, deadline: float = math.inf, rule: ExitRule = RULE) -> Request:
    return Request({}, rows, rule, deadline, lambda _: None, admitted_seconds=0.0)


def cancel(request: Request) -> bool:
    return request.close(RequestCancelled("the test gave it up"))


def flat_costs(max_batch_size: int = 4, seconds: float = 1.0) -> MeasuredCosts:
    """A batch of any size costs the same, so that only a full one is efficient."""
    costs = StageCosts([{1: seconds, max_batch_size: seconds}] * STAGES, max_batch_size)
    return MeasuredCosts(costs, costs)


def costs_of_rows(
    max_batch_size: int = 4, seconds: float = 1.0, all_cores_seconds: float | None = None
) -> MeasuredCosts:
    """Every row costs as much, however many run together."""
    side_by_side, all_cores = (
        StageCosts([{1: each, max_batch_size: each * max_batch_size}] * STAGES, max_batch_size)
        for each in (seconds, seconds if all_cores_seconds is None else all_cores_seconds)
    )
    return MeasuredCosts(side_by_side, all_cores)


def make_queues(costs: MeasuredCosts | None = None, blocks: Sequence[int] = (2, 2, 2)) -> StageQueues:
    return StageQueues(costs or flat_costs(), blocks)


def form(queues: StageQueues, now: float = 1.0, startable: int = 1, *, idle: bool = False) -> Batch:
    """Form a batch that has to come about, from requests that have not expired."""
    expired: list[Request] = []
    batch = queues.next_batch(now, startable, expired, idle=idle)
    assert batch is not None
    assert expired == []
    return batch


def advance(queues: StageQueues, batch: Batch, *, leaves: bool | Sequence[bool]) -> None:
    leaves_B = np.broadcast_to(np.array(leaves), batch.rows)
    queues.advance(batch, leaves_B, batch.count(leaves_B), (), now=1.0)


def through(queues: StageQueues, request: Request, stages: int) -> None:
    """Admit a request and take it, alone, past that many stages."""
    queues.admit(request)
    for _ in range(stages):
        advance(queues, form(queues), leaves=False)


def row_numbers(batch: Batch) -> list[list[int]]:
    return [group.rows_G.tolist() for group in batch.groups]


def source_slots(batch: Batch) -> list[int]:
    """Where the batch finds its rows' features."""
    return [slot for group in batch.groups for slot in group.slots_G.tolist()]
