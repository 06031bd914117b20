"""The loop: a thread receives calls, forms a batch, runs it, sends the answers, and starts again.

With a receiver the engine has permits + 1 threads. One thread at a time holds the receiver role and
receives calls from the front end. It keeps the role while its batches are short, and hands it over before
a long one. So calls are received and refused while long stages run. The other threads wait on one condition,
for a batch or for the role. A front end that calls `Engine.submit` from its own threads has no receiver. Then
the engine has one thread for each permit.

Invariants
- Every row is answered exactly once.
- A row's answer does not depend on the other rows of its batch.
- A cancelled or failing row neither blocks nor fails another row.
- NaN is never confident. If a row must leave with NaN, its request fails.
- Scheduler and lanes change only with the lock held. Code without the lock may read them, but only as hints.
- Stages run, and answers are sent, without the lock.
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
"""A batch and its lane."""
Expired = tuple[Lane[ServedVersion], Request]
"""A request whose deadline has passed, and its lane."""

_LOG = structlog.get_logger(__name__)


class Receiver(Protocol):
    """The part of a front end that the engine's threads drive."""

    def receive(self, *, wait: bool) -> bool:
        """Receive the calls that have arrived; with `wait`, block until there is one.

        Returns False after the front end was closed.
        """


class Shared:
    """The state that the threads of one engine share. It changes only with the lock held."""

    def __init__(self, permits: int) -> None:
        """Start without a receiver. permits: number of batches that may run at once."""
        self.scheduler = Scheduler[ServedVersion](permits)
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        """Workers wait on it for a batch or for the receiver role."""
        self.emptied = threading.Condition(self.lock)
        """Other threads wait on it until one lane or all lanes are idle."""
        self.receiver: Receiver | None = None
        self.role_is_free = False
        """Whether there is a receiver and no thread holds its role."""
        self.closed = False


class Worker(threading.Thread):
    """One thread of the loop."""

    def __init__(self, shared: Shared, number: int) -> None:
        super().__init__(name=f"engine-{number}", daemon=True)
        self._shared = shared

    def run(self) -> None:
        """Receive calls or run batches until the engine is closed."""
        while (task := self._wait()) is not None:
            try:
                task()
            except Exception as error:  # a bug of ours: keep the thread, and free the receiver role
                _LOG.error("worker failed", exc_info=error)
                with self._shared.lock:
                    self._shared.role_is_free |= task == self._receive
            del task  # it references its batch, which would stay in memory while this thread waits

    def _wait(self) -> Callable[[], None] | None:
        """Wait for the receiver role or a batch; return None after the engine was closed."""
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
        """Receive calls and run short batches; hand the role over before a long one."""
        shared = self._shared
        assert shared.receiver is not None, "the receiver role exists only with a receiver"
        receive_again, others_run = 0.0, False
        while True:
            busy = shared.scheduler.rows_waiting > 0 and not others_run
            if not busy or time.monotonic() >= receive_again:
                if not shared.receiver.receive(wait=not busy):
                    return
                receive_again = time.monotonic() + LONG_BATCH_SECONDS
            work = self._next()
            # If no further batch may start, the running threads will take the waiting rows.
            others_run = work is None
            if work is None:
                continue
            if is_long(work[1]):
                with shared.lock:
                    shared.role_is_free = True
                    shared.changed.notify()
                self._run_batches(work)
                return
            self.step(*work)
            del work  # it references its batch; see `run`

    def _run_batches(self, work: Work | None, expired: Sequence[Expired] = ()) -> None:
        """Run a batch, then further batches until none may start."""
        self._end(expired)
        while work is not None:
            self.step(*work)
            work = self._next()

    def _next(self) -> Work | None:
        """Form the next batch, and end expired requests."""
        with self._shared.lock:
            work, expired = self._schedule()
        self._end(expired)
        return work

    def _schedule(self) -> tuple[Work | None, list[Expired]]:
        """Form the next batch; wake another thread if a second batch is worth starting. Needs the lock."""
        expired: list[Expired] = []
        work = self._shared.scheduler.next_batch(time.monotonic(), expired)
        if work is not None and self._shared.scheduler.may_start():
            self._shared.changed.notify()
        self._shared.emptied.notify_all()  # the dropped rows may have been the last
        return work, expired

    def _end(self, expired: Sequence[Expired]) -> None:
        """End expired requests."""
        for lane, request in expired:
            lane.version.expire(request)
            with self._shared.lock:
                lane.expiring -= 1
                self._shared.emptied.notify_all()

    def step(self, lane: Lane[ServedVersion], batch: Batch) -> None:
        """Run a batch, queue its survivors, send the answers of the others, and record the batch."""
        version, seconds = lane.version, batch.seconds
        try:
            execution = version.execute(batch)
            seconds = execution.seconds
            decision = version.decide(batch, execution)
        except Exception as error:  # a bug of ours: only this batch fails
            self._fail(lane, batch, error)
        else:
            with self._shared.lock:
                lane.queues.advance(
                    batch,
                    decision.leaves_B,
                    decision.leaving_counts,
                    decision.new_shadows,
                    execution.times[-1],
                )
            decision.send()
            version.record(batch, execution, decision)
            execution.failures.clear()  # their tracebacks reference this frame and so the requests
            del decision
        finally:
            with self._shared.lock:
                self._shared.scheduler.done(lane, batch, seconds)
                self._shared.emptied.notify_all()

    def _fail(self, lane: Lane[ServedVersion], batch: Batch, error: Exception) -> None:
        """Fail all requests of a batch."""
        _LOG.error("batch failed", model=lane.version.manifest.name, stage=batch.stage, exc_info=error)
        with self._shared.lock:
            all_leave_B = np.ones(batch.rows, dtype=np.bool_)
            lane.queues.advance(batch, all_leave_B, batch.sizes, (), time.monotonic())
        for group in batch.groups:
            failure = StageFailed(f"stage {batch.stage} failed")
            failure.__cause__ = error
            lane.version.end(group.request, failure)
