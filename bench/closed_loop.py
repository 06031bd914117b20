"""A closed loop on an engine in process: so many requests outstanding until all are answered."""

import time
from collections import deque

import numpy as np
from numpy.typing import NDArray

from serving.engine.engine import Engine
from serving.engine.request import FutureReply
from serving.exits.options import ExitOptions, exit_rule


def closed_loop_seconds(
    engine: Engine,
    images_NCHW: NDArray[np.uint8],
    operating_point: str,
    *,
    request_rows: int,
    requests: int,
    outstanding: int,
) -> float:
    """Give how long the requests take, of rows that follow each other and begin again at the end."""
    rule = exit_rule(engine.points, ExitOptions(operating_point=operating_point))
    name = engine.manifest.inputs[0].name
    places = len(images_NCHW) - request_rows + 1
    waiting: deque[FutureReply] = deque()
    started = time.perf_counter()
    for number in range(requests):
        start = number * request_rows % places
        waiting.append(engine.submit({name: images_NCHW[start : start + request_rows]}, rule))
        if len(waiting) == outstanding:
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()
    return time.perf_counter() - started
