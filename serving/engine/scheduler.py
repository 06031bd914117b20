"""Decides which requests are admitted, and which rows of all served versions run next on one device.

Versions share the permits: the number of batches that may run at once. Among the versions with waiting rows,
the one that has used the least device time runs next. So many requests for one version delay another version
only until a running batch ends.

If a version's queue is full, a unary call is refused and a streamed request waits in line. All streams
together hold at most half of the queue. When rows are released, the first request in line is admitted before
any unary call, unless the streams already hold their half. So neither kind can starve the other.

Pure bookkeeping with the engine's lock held: no tensors, no threads, no clock; times are arguments.
"""

from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, TypeVar

from serving.engine.queues import SHARED_SECONDS, StageQueues
from serving.engine.request import Batch, Request
from serving.errors import DeadlineExpired, InvalidRequest, ModelNotReady, Overloaded

LONG_BATCH_SECONDS = 2e-3
"""A batch above this is long: its thread hands the receiver role to another thread before it runs."""

LONG_ALL_CORES_BATCH_SECONDS = 20e-3
"""The same limit for a batch on all cores. It is higher: no other row waits, and a second thread would take
a core from the batch."""
SLOWDOWN_FACTOR = 4.0
"""If a batch takes more than this many times its expected duration, it is slow. The stage's next batch is
then expected to be as slow."""

Version = TypeVar("Version")
_device_seconds = attrgetter("device_seconds")


@dataclass(eq=False)
class Lane(Generic[Version]):
    """The scheduling state of one version."""

    version: Version
    """Deleted when the lane is removed: version and lane form a reference cycle."""
    queues: StageQueues
    max_queue_size: int
    """Maximum number of rows that are admitted and unanswered."""
    line: deque[Request] = field(default_factory=deque)
    """Streamed requests that wait to be admitted, first come, first served."""
    slowness: dict[int, float] = field(default_factory=dict)
    """By stage: duration of its last slow batch, divided by the duration measured at warm-up. No entry for
    stages without a slow batch."""
    device_seconds: float = 0.0
    """Device time used so far. Running batches count with their expected duration."""
    running: int = 0
    """Number of running batches."""
    expiring: int = 0
    """Number of expired requests whose reply was not sent yet."""
    open: bool = True
    """Whether requests are admitted."""

    @property
    def idle(self) -> bool:
        """Whether no row waits or runs, and no reply is outstanding.

        The line is then empty too: requests wait in it only while rows are held.
        """
        queues = self.queues
        return not (queues.rows_held or queues.shadow_rows or self.running or self.expiring)

    @property
    def max_streamed_rows(self) -> int:
        """Maximum number of streamed rows that are admitted and unanswered."""
        return (self.max_queue_size + 1) // 2

    @property
    def free(self) -> int:
        """Number of further rows that may be admitted."""
        return self.max_queue_size - self.queues.rows_held

    @property
    def reserved(self) -> int:
        """Number of free rows reserved for the first request in line."""
        if not self.line:
            return 0
        rows = self.line[0].rows
        return rows if self.queues.streamed_rows_held + rows <= self.max_streamed_rows else 0


@dataclass(eq=False)
class Scheduler(Generic[Version]):
    """The lanes of all versions on one device, and the running batches."""

    permits: int
    """Maximum number of batches that run at once."""
    lanes: list[Lane[Version]] = field(default_factory=list)
    _running: list[Batch] = field(default_factory=list)
    _device_seconds: float = 0.0
    """The largest `device_seconds` that a lane had when a batch of it started. When a request enters
    an idle lane, the lane's `device_seconds` is raised to this value. So idle time gives no priority."""

    @property
    def running(self) -> int:
        """Number of running batches."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._running and all(lane.idle for lane in self.lanes)

    def add(self, lane: Lane[Version]) -> None:
        """Start serving a version."""
        self.lanes.append(lane)

    def remove(self, lane: Lane[Version]) -> None:
        """Remove a lane that is idle and admits no requests, and drop its reference to the version."""
        self.lanes.remove(lane)
        del lane.version

    def admit(self, lane: Lane[Version], request: Request) -> None:
        """Queue all rows of a request, or raise. A streamed request waits in line if there is no room.

        Raises ModelNotReady, DeadlineExpired, InvalidRequest for a wrong number of rows, and Overloaded
        if a unary call does not fit.
        """
        queues = lane.queues
        if not lane.open:
            raise ModelNotReady("the model is draining or broken: another version or replica may answer")
        if not 1 <= request.rows <= queues.max_rows:
            raise InvalidRequest(f"batch: expected 1 to {queues.max_rows} rows, got {request.rows}")
        if request.deadline_seconds <= request.admitted_seconds:
            raise DeadlineExpired("the deadline had passed when the request was admitted")
        if request.is_streamed:
            if request.rows > lane.max_streamed_rows:
                raise InvalidRequest(
                    f"batch: expected 1 to {lane.max_streamed_rows} rows on a stream, half of max_queue_size "
                    f"{lane.max_queue_size}, got {request.rows}"
                )
            lane.line.append(request)
            self.admit_waiting(lane)
            return
        free = max(0, lane.free - lane.reserved)
        if request.rows > free:
            raise Overloaded(
                f"queue: expected room for {request.rows} rows, got {free} free "
                f"of max_queue_size {lane.max_queue_size}"
            )
        self._enter(lane, request)

    def admit_waiting(self, lane: Lane[Version]) -> None:
        """Queue the first requests in line while there is room. Called whenever rows are released."""
        while 0 < lane.reserved <= lane.free:
            self._enter(lane, lane.line.popleft())

    def leave_line(self, lane: Lane[Version], request: Request) -> None:
        """Remove a request from the line, if it waits there."""
        if request in lane.line:
            lane.line.remove(request)
            self.admit_waiting(lane)

    def _enter(self, lane: Lane[Version], request: Request) -> None:
        if lane.idle:
            lane.device_seconds = max(lane.device_seconds, self._device_seconds)
        lane.queues.admit(request)

    @property
    def rows_waiting(self) -> int:
        """Number of waiting rows of all versions."""
        return sum(lane.queues.rows_waiting for lane in self.lanes)

    def may_start(self) -> bool:
        """Return whether another batch is worth starting now.

        The thread of a short batch takes the waiting rows as soon as that batch ends. So while a short
        batch runs, another batch is started only if the waiting rows take at least SHARED_SECONDS.
        """
        if len(self._running) >= self.permits or not self.rows_waiting:
            return False
        if all(is_long(batch) for batch in self._running):
            return True
        return sum(lane.queues.waiting_seconds() for lane in self.lanes) >= SHARED_SECONDS

    def next_batch(
        self, now: float, expired: list[tuple[Lane[Version], Request]]
    ) -> tuple[Lane[Version], Batch] | None:
        """Form the next batch and count it as running; return None if none may start.

        Requests whose deadline has passed are appended to `expired`; the caller ends them.
        """
        if not self.may_start():
            return None
        waiting = [lane for lane in self.lanes if lane.queues.rows_waiting]
        idle = not self._running and len(waiting) == 1
        for lane in sorted(waiting, key=_device_seconds):
            late: list[Request] = []
            batch = lane.queues.next_batch(now, self.permits - self.running, late, idle=idle)
            self.admit_waiting(lane)
            expired += [(lane, request) for request in late]
            lane.expiring += len(late)
            if batch is not None:
                self._device_seconds = max(self._device_seconds, lane.device_seconds)
                batch.seconds *= lane.slowness.get(batch.stage, 1.0)
                self._running.append(batch)
                lane.running += 1
                lane.device_seconds += batch.seconds
                return lane, batch
        return None

    def done(self, lane: Lane[Version], batch: Batch, seconds: float) -> None:
        """Record the end of a batch that used `seconds` of device time."""
        self._running.remove(batch)
        lane.running -= 1
        self.admit_waiting(lane)
        lane.device_seconds += seconds - batch.seconds
        if seconds > max(LONG_BATCH_SECONDS, SLOWDOWN_FACTOR * batch.seconds):
            lane.slowness[batch.stage] = seconds / batch.seconds * lane.slowness.get(batch.stage, 1.0)
        elif seconds < LONG_BATCH_SECONDS:
            lane.slowness.pop(batch.stage, None)


def is_long(batch: Batch) -> bool:
    """Return whether a batch is long enough to hand the receiver role over before it runs."""
    return batch.seconds > (LONG_ALL_CORES_BATCH_SECONDS if batch.all_cores else LONG_BATCH_SECONDS)
