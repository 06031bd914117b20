"""The loop: a thread takes calls in, forms a batch, runs it, answers, and goes on with what waits.

With a receiver, threads are one more than batches may run at once. One of them holds the receiver role
and takes calls from the front end. It keeps the role while its batches are short, and hands it over
before a long one, so calls are received and refused while long stages run. The others wait on one
condition, for a batch or for the role. A front end whose own threads bring the calls, by `Engine.submit`,
has no receiver: then there is a thread for each batch that may run at once.

Invariants: every row is answered exactly once; a row's answer does not depend on the others of its
batch; a cancelled or failing row never strands or spoils another; NaN is never confident, and where a
row would have to leave with it, its request fails. Scheduler and lanes change under the lock only, and
are read without it for hints alone; stages run, and answers are sent, outside it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import structlog

from serving.engine.request import Batch, Request
from serving.engine.scheduler import LONG_BATCH_SECONDS, Lane, Scheduler, is_long
from serving.engine.version import ServedVersion
from serving.errors import StageFailed

Work = tuple[Lane[ServedVersion], Batch]
"""A batch, and the lane that it comes from."""
Expired = tuple[Lane[ServedVersion], Request]
"""A request whose deadline has passed, and its lane."""

_LOG = structlog.get_logger(__name__)


class Receiver(Protocol):
    """The part of a front end that the engine's threads drive."""

    def receive(self, *, wait: bool) -> bool:
        """Take in the calls that have come, waiting for one if asked; False once the front end is closed."""


class Shared:
    """What the threads of one engine share; it changes under the lock only."""

    def __init__(self, permits: int) -> None:
        """Take how many batches may run at once."""
        self.scheduler = Scheduler[ServedVersion](permits)
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        """Workers wait on it, for a batch or for the receiver role."""
        self.emptied = threading.Condition(self.lock)
        """Others wait on it, for a lane or all lanes to be idle."""
        self.receiver: Receiver | None = None
        self.role_is_free = False
        """Whether there is a receiver, and no thread holds its role."""
        self.closed = False


class Worker(threading.Thread):
    """One thread of the loop."""

    def __init__(self, shared: Shared, number: int) -> None:
        super().__init__(name=f"engine-{number}", daemon=True)
        self._shared = shared

    def run(self) -> None:
        """Take calls in, or run batches, until the engine is closed."""
        while (task := self._wait()) is not None:
            try:
                task()
            except Exception as error:  # our own bug: the thread goes on, and somebody receives
                _LOG.error("worker failed", exc_info=error)
                with self._shared.lock:
                    self._shared.role_is_free |= task == self._receive
            del task  # it holds its batch, which must not outlive it while this thread waits

    def _wait(self) -> Callable[[], None] | None:
        """Wait for the receiver role or for a batch; None once the engine is closed."""
        shared = self._shared
        with shared.lock:
            while not shared.closed:
                if shared.role_is_free:
                    shared.role_is_free = False
                    return self._receive
                work, expired = self._schedule()
                if work is not None or expired:
                    return partial(self._run_batches, work, expired)
                shared.changed.wait()
        return None

    def _receive(self) -> None:
        """Take calls in and run short batches; hand the role over before a long one."""
        shared = self._shared
        assert shared.receiver is not None, "without a receiver nobody takes its role"
        look_again, others_run = 0.0, False
        while True:
            busy = shared.scheduler.rows_waiting > 0 and not others_run
            if not busy or time.monotonic() >= look_again:
                if not shared.receiver.receive(wait=not busy):
                    return
                look_again = time.monotonic() + LONG_BATCH_SECONDS
            work = self._next()
            others_run = work is None  # what waits is left to the threads that run
            if work is None:
                continue
            if is_long(work[1]):
                with shared.lock:
                    shared.role_is_free = True
                    shared.changed.notify()
                self._run_batches(work)
                return
            self.step(*work)
            del work  # as above

    def _run_batches(self, work: Work | None, expired: Sequence[Expired] = ()) -> None:
        """Run a batch, and what waits after it."""
        self._end(expired)
        while work is not None:
            self.step(*work)
            work = self._next()

    def _next(self) -> Work | None:
        """Form the next batch, and end the requests whose deadline has passed."""
        with self._shared.lock:
            work, expired = self._schedule()
        self._end(expired)
        return work

    def _schedule(self) -> tuple[Work | None, list[Expired]]:
        """Form the next batch under the lock; a second thread is woken where more is worth it."""
        expired: list[Expired] = []
        work = self._shared.scheduler.next_batch(time.monotonic(), expired)
        if work is not None and self._shared.scheduler.may_start():
            self._shared.changed.notify()
        self._shared.emptied.notify_all()  # rows of ended requests may have been the last
        return work, expired

    def _end(self, expired: Sequence[Expired]) -> None:
        """End requests whose deadline has passed."""
        for lane, request in expired:
            lane.version.expire(request)
            with self._shared.lock:
                lane.expiring -= 1
                self._shared.emptied.notify_all()

    def step(self, lane: Lane[ServedVersion], batch: Batch) -> None:
        """Run a batch, answer the rows that leave, queue the others, and record what happened."""
        version, seconds = lane.version, batch.seconds
        try:
            execution = version.execute(batch)
            seconds = execution.seconds
            decision = version.decide(batch, execution)
        except Exception as error:  # our own bug: its batch fails, the others go on
            self._give_up(lane, batch, error)
        else:
            with self._shared.lock:
                lane.queues.advance(
                    batch, decision.leaves_B, decision.leaving, decision.followed, execution.times[-1]
                )
            decision.send()
            version.record(batch, execution, decision)
            execution.failures.clear()  # their tracebacks hold this frame, and with it the requests
            del decision
        finally:
            with self._shared.lock:
                self._shared.scheduler.done(lane, batch, seconds)
                self._shared.emptied.notify_all()

    def _give_up(self, lane: Lane[ServedVersion], batch: Batch, error: Exception) -> None:
        """Fail the requests of a batch that could not be finished."""
        _LOG.error("batch given up", model=lane.version.manifest.name, stage=batch.stage, exc_info=error)
        with self._shared.lock:
            all_leave_B = np.ones(batch.rows, dtype=np.bool_)
            lane.queues.advance(batch, all_leave_B, batch.sizes, (), time.monotonic())
        for group in batch.groups:
            failure = StageFailed(f"stage {batch.stage} could not be finished")
            failure.__cause__ = error
            lane.version.end(group.request, failure)
