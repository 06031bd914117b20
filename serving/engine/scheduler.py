"""Decides which requests are admitted, and which rows of all served versions run next on one device.

Versions share the permits: of those with rows waiting, the one that was given the least device time so
far goes first, so one version's flood delays another by at most the batches that already run.

Where a version's queue is full, a unary call is refused, and a request of a stream waits in line. All
streams together hold at most half of the queue. Freed room goes to the first in line before any unary
call, until the streams have their half. So neither can starve the other.

Pure bookkeeping under the engine's lock: no tensor, no thread, no clock but the times it is told.
"""

from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, TypeVar

from serving.engine.queues import SHARED_SECONDS, StageQueues
from serving.engine.request import Batch, Request
from serving.errors import DeadlineExpired, InvalidRequest, ModelNotReady, Overloaded

LONG_BATCH_SECONDS = 2e-3
"""A batch that takes longer is long: its thread first hands the receiver role to another."""

LONG_LONE_BATCH_SECONDS = 20e-3
"""The same for a batch that has all cores: nobody waits, and a thread that wakes would take a core away."""
FAR_LONGER = 4.0
"""A batch that takes so many times longer than expected is expected to take as long again."""

Version = TypeVar("Version")
_given_seconds = attrgetter("given_seconds")


@dataclass(eq=False)
class Lane(Generic[Version]):
    """One version's place in the scheduler."""

    version: Version
    """Held until the lane is removed: a version holds its lane too."""
    queues: StageQueues
    max_queue_size: int
    """Most rows admitted and unanswered."""
    line: deque[Request] = field(default_factory=deque)
    """Requests of streams that wait to be admitted, first come, first served."""
    slowness: dict[int, float] = field(default_factory=dict)
    """Of stages whose last batch took far longer than measured at warm-up: how many times."""
    given_seconds: float = 0.0
    """Device time given so far, by what batches were expected to take."""
    running: int = 0
    """Batches that run now."""
    expiring: int = 0
    """Requests whose deadline was found to have passed, and whose callers are yet to be told."""
    open: bool = True
    """Whether requests are admitted."""

    @property
    def idle(self) -> bool:
        """Whether no row waits or runs, and every caller was answered; where a line is, rows are held."""
        queues = self.queues
        return not (queues.rows_held or queues.shadow_rows or self.running or self.expiring)

    @property
    def max_streamed_rows(self) -> int:
        """Most rows of all streams that are admitted and unanswered."""
        return (self.max_queue_size + 1) // 2

    @property
    def free(self) -> int:
        """How many more rows may be admitted."""
        return self.max_queue_size - self.queues.rows_held

    @property
    def claimed(self) -> int:
        """How many of the next free rows are for the stream that is first in line."""
        if not self.line:
            return 0
        rows = self.line[0].rows
        return rows if self.queues.streamed_rows_held + rows <= self.max_streamed_rows else 0


@dataclass(eq=False)
class Scheduler(Generic[Version]):
    """The lanes of all versions on one device, and the batches that run."""

    permits: int
    """Most batches that run at once."""
    lanes: list[Lane[Version]] = field(default_factory=list)
    _running: list[Batch] = field(default_factory=list)
    _given_seconds: float = 0.0
    """What the lane that was served last had been given before: time without work is no credit."""

    @property
    def running(self) -> int:
        """How many batches run now."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._running and all(lane.idle for lane in self.lanes)

    def add(self, lane: Lane[Version]) -> None:
        """Serve a version."""
        self.lanes.append(lane)

    def remove(self, lane: Lane[Version]) -> None:
        """Let a lane go that is idle and admits no request, and with it its hold on the version."""
        self.lanes.remove(lane)
        del lane.version

    def admit(self, lane: Lane[Version], request: Request) -> None:
        """Queue a request whole, or raise; one of a stream waits in line where there is no room.

        Raises ModelNotReady, InvalidRequest for its number of rows, DeadlineExpired or, for one that came
        on no stream, Overloaded.
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
        free = max(0, lane.free - lane.claimed)
        if request.rows > free:
            raise Overloaded(
                f"queue: expected room for {request.rows} rows, got {free} free "
                f"of max_queue_size {lane.max_queue_size}"
            )
        self._enter(lane, request)

    def admit_waiting(self, lane: Lane[Version]) -> None:
        """Queue the requests first in line for which there is room; called whenever rows are let go."""
        while 0 < lane.claimed <= lane.free:
            self._enter(lane, lane.line.popleft())

    def leave_line(self, lane: Lane[Version], request: Request) -> None:
        """Take a request that has ended out of the line, if it waits there."""
        if request in lane.line:
            lane.line.remove(request)
            self.admit_waiting(lane)

    def _enter(self, lane: Lane[Version], request: Request) -> None:
        if lane.idle:
            lane.given_seconds = max(lane.given_seconds, self._given_seconds)
        lane.queues.admit(request)

    @property
    def rows_waiting(self) -> int:
        """How many rows of all versions wait."""
        return sum(lane.queues.rows_waiting for lane in self.lanes)

    def may_start(self) -> bool:
        """Return whether another batch is worth starting now.

        While a short batch runs, its thread takes what waits as soon as it ends: a second thread pays
        only for more work than that.
        """
        if len(self._running) >= self.permits or not self.rows_waiting:
            return False
        if all(is_long(batch) for batch in self._running):
            return True
        return sum(lane.queues.waiting_seconds() for lane in self.lanes) >= SHARED_SECONDS

    def next_batch(
        self, now: float, expired: list[tuple[Lane[Version], Request]]
    ) -> tuple[Lane[Version], Batch] | None:
        """Form the next batch and count it as running, or None where none may start.

        Requests whose deadline has passed are added to `expired`, to be ended by the caller.
        """
        if not self.may_start():
            return None
        waiting = [lane for lane in self.lanes if lane.queues.rows_waiting]
        alone = not self._running and len(waiting) == 1
        for lane in sorted(waiting, key=_given_seconds):
            late: list[Request] = []
            batch = lane.queues.next_batch(now, self.permits - self.running, late, alone=alone)
            self.admit_waiting(lane)
            expired += [(lane, request) for request in late]
            lane.expiring += len(late)
            if batch is not None:
                self._given_seconds = max(self._given_seconds, lane.given_seconds)
                batch.seconds *= lane.slowness.get(batch.stage, 1.0)
                self._running.append(batch)
                lane.running += 1
                lane.given_seconds += batch.seconds
                return lane, batch
        return None

    def done(self, lane: Lane[Version], batch: Batch, seconds: float) -> None:
        """Note that a batch runs no more, after so many seconds of device time."""
        self._running.remove(batch)
        lane.running -= 1
        self.admit_waiting(lane)
        lane.given_seconds += seconds - batch.seconds
        if seconds > max(LONG_BATCH_SECONDS, FAR_LONGER * batch.seconds):
            lane.slowness[batch.stage] = seconds / batch.seconds * lane.slowness.get(batch.stage, 1.0)
        elif seconds < LONG_BATCH_SECONDS:
            lane.slowness.pop(batch.stage, None)


def is_long(batch: Batch) -> bool:
    """Return whether a batch is long enough for its thread to hand the receiver role over first."""
    return batch.seconds > (LONG_LONE_BATCH_SECONDS if batch.all_cores else LONG_BATCH_SECONDS)
