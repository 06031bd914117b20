"""Holds an engine's only permit, so that requests wait until the test releases it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from serving.engine.engine import Engine
from serving.engine.request import NO_DEADLINE, FutureReply, InputArrays, Request
from serving.engine.version import ServedVersion
from serving.engine.worker import Worker
from serving.exits.options import NO_OPTIONS, exit_rule
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.scripted_model import row


@contextmanager
def held_worker(engine: Engine, version: ServedVersion, inputs: InputArrays | None = None) -> Iterator[None]:
    """Hold the engine's only permit with a batch of one row until the block ends.

    Calls are received and admitted meanwhile. After the block, the caller's thread runs the batch and all
    that wait. inputs: the row, by default an easy one of the scripted model.
    """
    assert engine.permits == 1, "a second batch would run beside the held one"
    engine.wait_idle()
    reply = FutureReply()
    rule = exit_rule(version.points, NO_OPTIONS)
    request = Request(inputs or {"image": np.stack([row(0, 5, 5, 5)])}, 1, rule, NO_DEADLINE, reply)
    shared = engine._shared
    with shared.lock:  # in one step, so that no thread takes the row
        shared.scheduler.admit(version.lane, request)
        work = shared.scheduler.next_batch(time.monotonic(), [])
    assert work is not None, "nothing else ran"
    try:
        yield
    finally:
        Worker(shared, engine.permits)._run_batches(work)
        reply.result(PATIENCE_SECONDS)
