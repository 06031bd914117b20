"""Holds an engine's only permit, so that a test can arrange what waits before anything runs."""

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
    """Keep a batch of one row from running until the block ends; the row counts as held.

    inputs: the row, an easy one of the scripted model where none is given.
    The batch has the engine's only permit, as if a thread were in the middle of its stage. Calls are
    received and admitted meanwhile. The caller's thread runs the batch in the end, and what waits then.
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
