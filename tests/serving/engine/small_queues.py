"""A scheduler of few slots, and requests for it, so that a test can follow every row."""

import math

from serving.stages.costs import StageCosts
from serving.exits.policy import ExitRule
from serving.engine.request import FutureReply, Request
from serving.engine.scheduler import Scheduler

STAGES = 3
RULE = ExitRule((0.5, 0.5), 2)


def make_request(rows: int, deadline: float = math.inf, rule: ExitRule = RULE) -> Request:
    return Request({}, rows, rule, deadline, FutureReply(), admitted_seconds=0.0)


def cancel(request: Request) -> None:
    assert isinstance(request.reply, FutureReply)
    request.reply.cancel()


def make_scheduler(
    max_batch_size: int = 4, slots: int = 8, patience: int = 1, *, padded: bool = False
) -> Scheduler:
    """A batch of any size costs the same, so that only a full one is efficient."""
    costs = StageCosts([dict.fromkeys(range(1, max_batch_size + 1), 1.0)] * STAGES, max_batch_size)
    return Scheduler(
        costs, stages=STAGES, max_rows=max_batch_size, slots=slots, patience=patience, padded=padded
    )
