"""The engine: what serves all versions on one device; requests come in here, and threads run them.

How they run is the worker's business (`serving.engine.worker`).
"""

import time

from serving.engine.request import NO_DEADLINE, FutureReply, InputArrays, Request
from serving.engine.version import ServedVersion
from serving.engine.worker import Receiver, Shared, Worker
from serving.errors import ModelNotReady, RequestCancelled
from serving.exits.policy import ExitRule

DEADLINE_SLACK_SECONDS = 0.01
"""A caller's clock starts before ours: a call that is given up so shortly before its deadline met it."""


class Engine:
    """Versions, the requests for them, and the threads that run them; safe to call from any thread."""

    def __init__(self, permits: int) -> None:
        """Take how many batches may run at once."""
        self.permits = permits
        self._shared = Shared(permits)
        self._workers: list[Worker] = []

    def start(self, receiver: Receiver | None = None) -> None:
        """Start the threads; one of them at a time takes calls from the receiver, if there is one."""
        self._shared.receiver, self._shared.role_is_free = receiver, receiver is not None
        count = self.permits + (receiver is not None)
        self._workers = [Worker(self._shared, number) for number in range(count)]
        for worker in self._workers:
            worker.start()

    @property
    def alive(self) -> bool:
        """Whether every thread lives."""
        return all(worker.is_alive() for worker in self._workers)

    @property
    def requests_in_flight(self) -> int:
        """How many requests are admitted and not yet over."""
        return sum(lane.queues.requests_held for lane in self._shared.scheduler.lanes)

    def add(self, version: ServedVersion) -> None:
        """Serve a version."""
        with self._shared.lock:
            self._shared.scheduler.add(version.lane)

    def remove(self, version: ServedVersion) -> None:
        """Refuse new requests for a version, answer those admitted, and close it; blocks until then."""
        with self._shared.lock:
            version.lane.open = False
            self._shared.emptied.wait_for(lambda: version.lane.idle)
            if version.lane not in self._shared.scheduler.lanes:
                return
            self._shared.scheduler.remove(version.lane)
        version.close()

    def submit(self, version: ServedVersion, request: Request) -> None:
        """Admit a request whole, or raise; its reply is called once, with its answers or an error.

        It runs once a thread looks: see `wake`. One of a stream waits until there is room. Raises
        InvalidRequest, Overloaded, DeadlineExpired or ModelNotReady at once; the reply may be given
        StageFailed, DeadlineExpired, RequestCancelled, or while it waits ModelNotReady.
        """
        with self._shared.lock:
            self._shared.scheduler.admit(version.lane, request)
            if request.sampled_rows:
                version.monitor.admitted(request)

    def wake(self) -> None:
        """Have a thread look at what was submitted; a receiver's thread looks by itself."""
        with self._shared.lock:
            if self._shared.scheduler.may_start():
                self._shared.changed.notify()

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
        """Cancel a request: its rows leave the line, or are dropped at the next stage boundary."""
        with self._shared.lock:
            self._shared.scheduler.leave_line(version.lane, request)
        if time.monotonic() >= request.deadline_seconds - DEADLINE_SLACK_SECONDS:
            version.expire(request)
        else:
            version.end(request, RequestCancelled("the caller gave the request up"))
        self.wake()  # its rows may wait for a thread that nobody else wakes, and keep a drain waiting

    def refuse_waiting(self, error: ModelNotReady) -> None:
        """End the requests of streams that wait for room: they were not admitted."""
        with self._shared.lock:
            waiting = [(lane.version, each) for lane in self._shared.scheduler.lanes for each in lane.line]
            for lane in self._shared.scheduler.lanes:
                lane.line.clear()
            self._shared.emptied.notify_all()
        for version, request in waiting:
            version.end(request, error)

    def wait_idle(self) -> None:
        """Wait until no request is in flight and every answer was handed over."""
        with self._shared.lock:
            self._shared.emptied.wait_for(lambda: self._shared.scheduler.idle)

    def close(self) -> None:
        """Stop the threads after what they run; the front end has to be closed before."""
        with self._shared.lock:
            self._shared.closed = True
            self._shared.changed.notify_all()
        for worker in self._workers:
            worker.join()
