"""Requests with sampled rows, and the monitor's counts of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.engine.request import NO_DEADLINE, Answers, FutureReply, Reply, Request
from serving.exits.policy import ExitRule
from serving.monitor.monitor import MonitorLimits, PointState
from tests.serving.conftest import Served
from tests.serving.engine.engine_calls import BALANCED, ask
from tests.serving.scripted_model import row

ALL = MonitorLimits(shadow_share=1.0)
MISTAKEN = row(1, 5, 5, 0)
"""Leaves at exit 0 with label 1. The final exit answers 0, because its logits are equal."""


def mistaken(rows: int, first: int = 0) -> list[NDArray[np.uint8]]:
    """Return different rows like MISTAKEN. first: the number of the first row."""
    return [row(1, 5, 5, 0, fates=divmod(number, 250)) for number in range(first, first + rows)]


def state(served: Served, point: str = "balanced") -> PointState:
    return next(each for each in served.version.point_states() if each.name == point)


def counts(served: Served, point: str = "balanced") -> tuple[int, int, int]:
    """Wait until the engine is idle; return the agreed, differed and missing sampled rows."""
    served.engine.wait_idle()
    watch = state(served, point).watch
    assert watch is not None
    return watch.agreed, watch.differed, watch.missing


def asked(served: Served, *rows: NDArray[np.uint8], rule: ExitRule = BALANCED) -> Answers:
    """Send rows and wait for their answers and their full-depth answers."""
    answers = ask(served, *rows, rule=rule)
    served.engine.wait_idle()
    return answers


def sampling(
    rows: Sequence[NDArray[np.uint8]], sampled: Sequence[int], reply: Reply | None = None, caller: str = ""
) -> Request:
    """Return a request whose rows at the positions `sampled` are sampled."""
    inputs = {"image": np.stack(rows)}
    return Request(
        inputs,
        len(rows),
        BALANCED,
        NO_DEADLINE,
        reply or FutureReply(),
        sampled_rows=sampled,
        caller=caller,
    )


def run(served: Served, *requests: Request) -> None:
    """Submit requests that fit in one batch, and wait until the engine is idle."""
    for request in requests:
        served.engine.submit(served.version, request)
    served.engine.wake()
    served.engine.wait_idle()
