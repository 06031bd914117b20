"""Submits scripted rows to an engine, and names the labels of its metrics."""

from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from serving.engine.request import NO_DEADLINE, Answers
from serving.exits.policy import ExitRule
from tests.serving.conftest import Served
from tests.serving.live_server import PATIENCE_SECONDS

EXACT = ExitRule((None, None), 2, "exact")
BALANCED = ExitRule((0.9, 0.9), 2, "balanced")


def submit(
    served: Served, *rows: NDArray[np.uint8], rule: ExitRule = BALANCED, deadline: float = NO_DEADLINE
) -> "Future[Answers]":
    return served.engine.infer(served.version, {"image": np.stack(rows)}, rule, deadline)


def ask(served: Served, *rows: NDArray[np.uint8], rule: ExitRule = BALANCED) -> Answers:
    return submit(served, *rows, rule=rule).result(PATIENCE_SECONDS)


def stage_labels(number: int) -> dict[str, str]:
    return {"model": "scripted", "version": "1", "stage": str(number)}
