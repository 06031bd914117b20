"""The engine of one device: accepts requests for all versions, and owns the threads that run them.

`serving.engine.worker` is the loop of such a thread.
"""

import time

from serving.engine.request import NO_DEADLINE, FutureReply, InputArrays, Request
from serving.engine.version import ServedVersion
from serving.engine.worker import Receiver, Shared, Worker
from serving.errors import ModelNotReady, RequestCancelled
from serving.exits.policy import ExitRule

DEADLINE_SLACK_SECONDS = 0.05
"""A caller's clock starts slightly earlier than ours. A cancellation within this time before our deadline
counts as an expiry."""


class Engine:
    """Admits requests for the served versions, and owns the threads that run them. Thread-safe."""

    def __init__(self, permits: int) -> None:
        """Start without versions or threads. permits: number of batches that may run at once."""
        self.permits = permits
        self._shared = Shared(permits)
        self._workers: list[Worker] = []

    def start(self, receiver: Receiver | None = None) -> None:
        """Start the threads. With a receiver, one thread at a time receives its calls."""
        self._shared.receiver, self._shared.role_is_free = receiver, receiver is not None
        count = self.permits + (receiver is not None)
        self._workers = [Worker(self._shared, number) for number in range(count)]
        for worker in self._workers:
            worker.start()

    @property
    def alive(self) -> bool:
        """Whether every thread is alive."""
        return all(worker.is_alive() for worker in self._workers)

    @property
    def requests_in_flight(self) -> int:
        """Number of requests that are admitted and have not ended."""
        return sum(lane.queues.requests_held for lane in self._shared.scheduler.lanes)

    @property
    def batches_running(self) -> int:
        """Number of batches that run now."""
        return self._shared.scheduler.running

    def add(self, version: ServedVersion) -> None:
        """Start serving a version."""
        with self._shared.lock:
            self._shared.scheduler.add(version.lane)

    def remove(self, version: ServedVersion) -> None:
        """Refuse new requests for a version, wait until the admitted ones have ended, and close it."""
        with self._shared.lock:
            version.lane.open = False
            self._shared.emptied.wait_for(lambda: version.lane.idle)
            if version.lane not in self._shared.scheduler.lanes:
                return
            self._shared.scheduler.remove(version.lane)
        version.close()

    def submit(self, version: ServedVersion, request: Request) -> None:
        """Admit all rows of a request, or raise.

        The reply is called exactly once, with the answers or an error. Call `wake` afterwards, so that a
        thread runs the request. A streamed request waits until there is room. Raises InvalidRequest,
        Overloaded, DeadlineExpired or ModelNotReady. The reply may receive StageFailed, DeadlineExpired or
        RequestCancelled; the reply of a waiting streamed request may also receive ModelNotReady.
        """
        with self._shared.lock:
            self._shared.scheduler.admit(version.lane, request)
            if request.sampled_rows:
                version.monitor.admitted(request)

    def wake(self) -> None:
        """Wake a thread to run submitted requests. The receiver's thread finds them without this call."""
        with self._shared.lock:
            if self._shared.scheduler.may_start():
                self._shared.changed.notify()

    def infer(
        self,
        version: ServedVersion,
        inputs: InputArrays,
        rule: ExitRule,
        deadline_seconds: float = NO_DEADLINE,
    ) -> FutureReply:
        """Submit rows and return a future of their answers, for callers in this process."""
        reply = FutureReply()
        rows = len(next(iter(inputs.values())))
        sampled = version.monitor.sample(rows, rule)
        request = Request(inputs, rows, rule, deadline_seconds, reply, sampled_rows=sampled)
        self.submit(version, request)
        self.wake()
        reply.add_done_callback(lambda future: self.cancel(version, request) if future.cancelled() else None)
        return reply

    def cancel(self, version: ServedVersion, request: Request) -> None:
        """Cancel a request. It leaves the line, or its rows are dropped at the next stage boundary."""
        with self._shared.lock:
            self._shared.scheduler.leave_line(version.lane, request)
        if time.monotonic() >= request.deadline_seconds - DEADLINE_SLACK_SECONDS:
            version.expire(request)
        else:
            version.end(request, RequestCancelled("the caller cancelled the request"))
        self.wake()  # otherwise its rows might never be dropped, and a drain would wait for them

    def refuse_waiting(self, error: ModelNotReady) -> None:
        """End the streamed requests that wait for admission."""
        with self._shared.lock:
            lanes = self._shared.scheduler.lanes
            waiting = [(lane.version, request) for lane in lanes for request in lane.line]
            for lane in lanes:
                lane.line.clear()
            self._shared.emptied.notify_all()
        for version, request in waiting:
            version.end(request, error)

    def wait_idle(self) -> None:
        """Wait until no request is in flight and every answer was passed to the front end."""
        with self._shared.lock:
            self._shared.emptied.wait_for(lambda: self._shared.scheduler.idle)

    def close(self) -> None:
        """Stop the threads after their current batches. Close the front end first."""
        with self._shared.lock:
            self._shared.closed = True
            self._shared.changed.notify_all()
        for worker in self._workers:
            worker.join()
