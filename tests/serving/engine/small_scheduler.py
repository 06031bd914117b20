"""A scheduler of few slots, and requests for it, so that a test can follow every row."""

import math

from serving.engine.policy import ExitRule
from serving.engine.request import Answers, Request
from serving.engine.scheduler import Scheduler

STAGES = 3
RULE = ExitRule((None, None), 2)


def make_request(rows: int, deadline: float = math.inf) -> Request:
    return Request({}, rows, RULE, deadline, Answers.empty(rows, 2), admitted_seconds=0.0)


def make_scheduler(max_batch_size: int = 4, slots: int = 8, patience: int = 1) -> Scheduler:
    return Scheduler(STAGES, max_batch_size=max_batch_size, slots=slots, patience=patience)
