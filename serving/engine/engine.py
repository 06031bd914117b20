"""The engine: threads that take calls in, run batches and answer them, for all versions on a device.

`step` is the loop's body: run a batch's stages, decide its exits, answer, record. Threads are one more
than batches may run at once. One thread holds the receiver role and takes calls from the front end; it
keeps the role while its batches are short, and hands it over before a long one, so calls are received
and refused while long stages run. The others wait on one condition for batches or for the role. A front
end that brings its calls by `submit`, from threads of its own, needs no receiver.

Invariants: every row is answered exactly once; a row's answer does not depend on the others of its
batch; a cancelled or failing row never strands or spoils another; NaN is never confident, and where a
row would have to leave with it, its request fails. Scheduler and lanes are touched under the lock only;
stages run, and answers are sent, outside it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import structlog

from serving.engine.request import NO_DEADLINE, Batch, FutureReply, InputArrays, Request
from serving.engine.scheduler import HAND_OVER_BATCH_SECONDS, Lane, Scheduler, is_long
from serving.engine.version import ServedVersion
from serving.errors import DeadlineExpired, RequestCancelled, StageFailed
from serving.exits.policy import ExitRule

Work = tuple[Lane[ServedVersion], Batch]
"""A batch, and the lane that it comes from."""
Expired = tuple[Lane[ServedVersion], Request]

_LOG = structlog.get_logger(__name__)


class Receiver(Protocol):
    """The part of a front end that the engine's threads drive."""

    def receive(self, *, wait: bool) -> bool:
        """Take in the calls that have come, waiting for one if asked; False once the front end is closed."""


class Engine:
    """Runs the batches of all served versions."""

    def __init__(self, permits: int) -> None:
        """Take how many batches may run at once."""
        self.permits = permits
        self._scheduler = Scheduler[ServedVersion](permits)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        """Worker threads wait on it for a batch, or for the receiver role."""
        self._emptied = threading.Condition(self._lock)
        """Others wait on it for a lane, or all lanes, to be idle."""
        self._receiver: Receiver | None = None
        self._role_is_free = False
        self._closed = False
        self._threads: list[threading.Thread] = []

    def start(self, receiver: Receiver | None = None) -> None:
        """Start the threads; one of them at a time takes calls from the receiver, if there is one."""
        self._receiver, self._role_is_free = receiver, receiver is not None
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{number}", daemon=True)
            for number in range(self.permits + (receiver is not None))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every thread lives."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def requests_in_flight(self) -> int:
        """How many requests are admitted and not yet over."""
        return sum(lane.queues.requests_held for lane in self._scheduler.lanes)

    def add(self, version: ServedVersion) -> None:
        """Serve a version."""
        with self._lock:
            self._scheduler.add(version.lane)

    def remove(self, version: ServedVersion) -> None:
        """Refuse new requests for a version, answer those admitted, and let it go; blocks until then."""
        with self._lock:
            version.lane.open = False
            self._emptied.wait_for(lambda: version.lane.idle)
            if version.lane not in self._scheduler.lanes:
                return
            self._scheduler.lanes.remove(version.lane)
        version.observation.close()

    def submit(self, version: ServedVersion, request: Request) -> None:
        """Admit a request whole, or raise; its reply is called once, with its answers or an error.

        It runs once a thread looks: see `wake`.
        Raises InvalidRequest, Overloaded, DeadlineExpired or ModelNotReady at once; the reply may be
        given StageFailed, DeadlineExpired or RequestCancelled.
        """
        with self._lock:
            self._scheduler.admit(version.lane, request)
            if request.sampled_rows:
                version.monitor.admitted(request)

    def wake(self) -> None:
        """Have a thread look at what was submitted; not needed by the receiver, which looks by itself."""
        with self._lock:
            if self._scheduler.may_start():
                self._changed.notify()

    def ask(
        self,
        version: ServedVersion,
        inputs: InputArrays,
        rule: ExitRule,
        deadline_seconds: float = NO_DEADLINE,
    ) -> FutureReply:
        """Submit rows and return their answers as a future: for callers in this process."""
        reply = FutureReply()
        rows = len(next(iter(inputs.values())))
        sampled = version.monitor.sample(rows, rule)
        request = Request(inputs, rows, rule, deadline_seconds, reply, sampled_rows=sampled)
        self.submit(version, request)
        self.wake()
        reply.add_done_callback(lambda future: self.cancel(version, request) if future.cancelled() else None)
        return reply

    def cancel(self, version: ServedVersion, request: Request) -> None:
        """Give a request up; its rows are dropped at the next stage boundary."""
        late = time.monotonic() >= request.deadline_seconds
        error = _late() if late else RequestCancelled("the caller gave the request up")
        if request.close(error):
            version.observation.dropped([(request, error)])

    def wait_idle(self) -> None:
        """Wait until no request is in flight and every answer was handed over."""
        with self._lock:
            self._emptied.wait_for(lambda: self._scheduler.idle)

    def close(self) -> None:
        """Stop the threads after what they run; the front end has to be closed before."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (task := self._wait()) is not None:
            task()

    def _wait(self) -> Callable[[], None] | None:
        """Wait for the receiver role or for a batch; None once the engine is closed."""
        with self._lock:
            while not self._closed:
                if self._role_is_free:
                    self._role_is_free = False
                    return self._receive
                work, expired = self._schedule()
                if work is not None or expired:
                    return partial(self._run, work, expired)
                self._changed.wait()
        return None

    def _receive(self) -> None:
        """Take calls in and run short batches; hand the role over before a long one."""
        assert self._receiver is not None, "without a receiver nobody takes the role"
        look_again, others_run = 0.0, False
        while True:
            busy = self._scheduler.rows_waiting > 0 and not others_run
            if not busy or time.monotonic() >= look_again:
                if not self._receiver.receive(wait=not busy):
                    return
                look_again = time.monotonic() + HAND_OVER_BATCH_SECONDS
            work = self._next()
            others_run = work is None  # what waits is left to the threads that run
            if work is None:
                continue
            if is_long(work[1]):
                with self._lock:
                    self._role_is_free = True
                    self._changed.notify()
                self._run(work)
                return
            self.step(*work)

    def _run(self, work: Work | None, expired: Sequence[Expired] = ()) -> None:
        """Run a batch, and what waits after it."""
        _end_expired(expired)
        while work is not None:
            self.step(*work)
            work = self._next()

    def _next(self) -> Work | None:
        """Form the next batch, and end the requests whose deadline has passed."""
        with self._lock:
            work, expired = self._schedule()
        _end_expired(expired)
        return work

    def _schedule(self) -> tuple[Work | None, list[Expired]]:
        expired: list[Expired] = []
        work = self._scheduler.next_batch(time.monotonic(), expired)
        if work is not None and self._scheduler.may_start():
            self._changed.notify()
        if expired:
            self._emptied.notify_all()
        return work, expired

    def step(self, lane: Lane[ServedVersion], batch: Batch) -> None:
        """Run a batch, answer the rows that leave, queue the others, and record what happened."""
        version = lane.version
        try:
            execution = version.execute(batch)
            decision = version.decide(batch, execution)
        except Exception as error:  # our own bug: its batch fails, the others go on
            self._give_up(lane, batch, error)
            return
        with self._lock:
            lane.queues.advance(
                batch, decision.leaves_B, decision.leaving, decision.followed, execution.times[-1]
            )
        decision.ended = [(request, result) for request, result in decision.ended if request.close(result)]
        for shadow, result in decision.shadows_ended:
            shadow.close(result)
        try:
            version.observation.finished(batch, execution, decision)
        except Exception as error:  # our own bug: the answers are sent, and serving goes on
            _LOG.error("batch not recorded", model=version.manifest.name, exc_info=error)
        self._done(lane, batch, execution.seconds)

    def _give_up(self, lane: Lane[ServedVersion], batch: Batch, error: Exception) -> None:
        _LOG.error("batch given up", model=lane.version.manifest.name, stage=batch.stage, exc_info=error)
        with self._lock:
            all_leave_B = np.ones(batch.rows, dtype=np.bool_)
            lane.queues.advance(batch, all_leave_B, batch.sizes, (), time.monotonic())
        failed = []
        for group in batch.groups:
            failure = StageFailed(f"stage {batch.stage} could not be finished")
            failure.__cause__ = error
            if group.request.close(failure) and not group.request.is_shadow:
                failed.append((group.request, failure))
        lane.version.observation.dropped(failed)
        self._done(lane, batch, batch.seconds)

    def _done(self, lane: Lane[ServedVersion], batch: Batch, seconds: float) -> None:
        with self._lock:
            self._scheduler.done(lane, batch, seconds)
            if lane.idle:
                self._emptied.notify_all()


def _late() -> DeadlineExpired:
    return DeadlineExpired("the deadline passed before the last row was answered")


def _end_expired(expired: Sequence[Expired]) -> None:
    for lane, request in expired:
        error = _late()
        if request.close(error):
            lane.version.observation.dropped([(request, error)])
