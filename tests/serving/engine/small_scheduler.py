"""Builds lanes and schedulers, and finishes batches as the engine does."""

from collections.abc import Sequence

import numpy as np

from serving.engine.request import Batch
from serving.engine.scheduler import Lane, Scheduler
from serving.exits.policy import ExitRule
from serving.stages.costs import MeasuredCosts
from tests.serving.engine.small_queues import flat_costs, make_queues

ONE_STAGE = ExitRule((0.5, 0.5), 0)
"""Rows leave at exit 0, so each batch ends its requests."""


def make_lane(
    name: str = "digits",
    costs: MeasuredCosts | None = None,
    *,
    max_queue_size: int = 10,
    blocks: Sequence[int] = (8, 8, 8),
) -> Lane[str]:
    return Lane(name, make_queues(costs or flat_costs(), blocks), max_queue_size)


def make_scheduler(*lanes: Lane[str], permits: int = 1) -> Scheduler[str]:
    scheduler = Scheduler[str](permits)
    for lane in lanes:
        scheduler.add(lane)
    return scheduler


def next_of(scheduler: Scheduler[str]) -> tuple[str, Batch]:
    """Form the next batch. Fails if none can start."""
    work = scheduler.next_batch(1.0, [])
    assert work is not None
    return work[0].version, work[1]


def finish(scheduler: Scheduler[str], lane: Lane[str], batch: Batch, seconds: float | None = None) -> None:
    """Let every row of a batch leave, after its expected duration or after `seconds`."""
    leaves_B = np.ones(batch.rows, dtype=np.bool_)
    lane.queues.advance(batch, leaves_B, batch.count(leaves_B), (), 1.0)
    scheduler.done(lane, batch, batch.seconds if seconds is None else seconds)
