"""The engine of one model version: `enter(inputs, rule, deadline, reply)` is its one door.

Three verbs are repeated: schedule a batch, run its stage, finish its rows. Worker threads do so under
load; while nothing else runs, a short batch is run at once by the thread that brought it, which spares
two changes of thread. The lock guards the scheduler and the requests' state and is never held while a
stage runs. Knows nothing of gRPC or of an event loop: a reply is a way back that it is handed, and
`soon` says when the caller's thread has time.

Invariants: every row is answered exactly once; a row's answer does not depend on its batch-mates; a
cancelled or failing row never strands or spoils another; NaN is never confident, and where a row would
have to leave with it, its request fails. While rows wait, some thread runs, or will be asked to.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import structlog

from serving.engine.accounts import Accounts
from serving.engine.admission import Admission
from serving.engine.batch_run import BatchRun, run_batch
from serving.engine.costs import HAND_OVER_SECONDS
from serving.engine.devices import Device
from serving.engine.policy import STAYS, Bools, ExitRule, Integers, Readout, decide, read_exit
from serving.engine.request import Answers, Batch, FutureReply, InputArrays, Reply, Request, RowGroup
from serving.engine.scheduler import Scheduler
from serving.engine.stages import open_stages
from serving.errors import DeadlineExpired, StageFailed
from serving.metrics import ModelMetrics
from serving.repository.repository import PublishedVersion

NO_DEADLINE = float("inf")
WORTH_A_WORKER_SECONDS = 3 * HAND_OVER_SECONDS
"""Another worker is woken for no less work than this."""

_LOG = structlog.get_logger(__name__)

class Step(Protocol):
    """A turn at the engine's work, in the thread that calls it."""

    def __call__(self, *, here: bool = True) -> bool:
        """Run what is short, or have workers run it, as always where not `here`; True: there is more."""


Soon = Callable[[Step], None]
"""Calls a step once the caller's thread has time, and again for as long as it says that there is more."""

MOST_STEPS = 16
"""A caller that brings one request is not kept for the work of others beyond this."""


def at_once(step: Step) -> None:
    """Step in the thread that brought the request: for callers in threads."""
    for _ in range(MOST_STEPS):
        if not step():
            return
    step(here=False)


@dataclass(frozen=True)
class EngineLimits:
    """How much one version's engine holds, and how much of it runs at once."""

    max_batch_size: int
    max_queue_size: int
    slots: int
    workers: int
    patience: int
    lone_threads: int = 1
    """Intra-op threads of a batch that runs alone."""
    caller_seconds: float = 0.0
    """The longest batch that the caller's own thread runs; 0: none."""


class Engine:
    """Runs the rows of all requests for one version through its stages."""

    def __init__(
        self,
        version: PublishedVersion,
        device: Device,
        limits: EngineLimits,
        metrics: ModelMetrics,
        soon: Soon = at_once,
    ) -> None:
        self.manifest = version.manifest
        self.max_batch_size = limits.max_batch_size
        self.accounts = Accounts(self.manifest, metrics)
        self._soon = soon
        self._caller_seconds = limits.caller_seconds
        self._admission = Admission(limits.max_batch_size, limits.max_queue_size)
        self._runner, self.costs = open_stages(
            version,
            device,
            max_batch_size=limits.max_batch_size,
            slots=limits.slots,
            lone_threads=limits.lone_threads,
        )
        self._scheduler = Scheduler(
            self.costs.side_by_side,
            stages=len(self.manifest.stages),
            max_rows=limits.max_batch_size,
            slots=limits.slots,
            patience=limits.patience,
        )
        self._changed = threading.Condition()
        self._running = 0
        self._step_asked = False
        self._open = True
        self._broken = False
        metrics.watch_waiting(self._scheduler.waiting)
        self._workers = [
            threading.Thread(target=self._serve, name=f"{self.manifest.name}-{number}", daemon=True)
            for number in range(limits.workers)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def ready(self) -> bool:
        """Whether it accepts requests, its stages run and every worker lives."""
        return self._open and not self._broken and all(worker.is_alive() for worker in self._workers)

    @property
    def rows_held(self) -> int:
        """How many rows are admitted and not yet answered or dropped."""
        return self._scheduler.rows_held

    @property
    def slots_held(self) -> int:
        """How many slots hold features that some row still needs."""
        return self._scheduler.slots_held()

    def enter(self, inputs: InputArrays, rule: ExitRule, deadline_seconds: float, reply: Reply) -> None:
        """Admit a request whole, or raise; the reply is settled once its last row has left.

        inputs: an array [R, ...] for each of the manifest's inputs, unchanged until answered.
        deadline_seconds is on the monotonic clock. Raises InvalidRequest, Overloaded,
        DeadlineExpired or ModelNotReady at once; the reply may be settled with StageFailed or
        DeadlineExpired, and cancelling it gives the rows up.
        """
        rows = len(next(iter(inputs.values())))
        request = Request(inputs, rows, rule, deadline_seconds, reply)
        with self._changed:
            self._admission.check(
                rows,
                rows_held=self._scheduler.rows_held,
                deadline_seconds=deadline_seconds,
                now=request.admitted_seconds,
                ready=self.ready,
            )
            self._scheduler.admit(request)
            asked, self._step_asked = self._step_asked, True
        if not asked:
            self._soon(self._step)

    def submit(
        self, inputs: InputArrays, rule: ExitRule, deadline_seconds: float = NO_DEADLINE
    ) -> FutureReply:
        """Enter a request and give its answers as a future: for callers in threads."""
        reply = FutureReply()
        self.enter(inputs, rule, deadline_seconds, reply)
        return reply

    def close(self) -> None:
        """Refuse new requests, answer the admitted ones, and stop the workers; blocks until done."""
        with self._changed:
            if not self._open:
                return
            self._open = False
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()
        self.accounts.close()

    def _step(self, *, here: bool = True) -> bool:
        """In the caller's thread: run what waits if that is one short batch, or leave it to workers."""
        with self._changed:
            self._step_asked = False
            if not (here and self._runs_here()):
                self._wake_worker()
                return False
            batch, expired = self._next_batch(idle=1)
        _expire(expired)
        if batch is not None:
            self._run(batch)
        return self._scheduler.rows_held > 0

    def _runs_here(self) -> bool:
        """Whether all that the engine holds is one batch that the caller's thread may run."""
        lone = self._scheduler.lone_batch() if self._running == 0 else None
        return lone is not None and self.costs.lone_seconds(*lone) <= self._caller_seconds

    def _serve(self) -> None:
        while (batch := self._await_batch()) is not None:
            self._run(batch)

    def _await_batch(self) -> Batch | None:
        """Wait for the next batch; None once the engine is closed and empty."""
        while True:
            with self._changed:
                batch, expired = self._next_batch(idle=max(1, len(self._workers) - self._running))
                if batch is not None:
                    self._wake_worker()
                elif not expired:
                    if not self._open and self._scheduler.rows_held == 0:
                        self._changed.notify_all()
                        return None
                    self._changed.wait()
            _expire(expired)
            if batch is not None:
                return batch

    def _next_batch(self, idle: int) -> tuple[Batch | None, list[Request]]:
        """Form a batch, which counts as running from here on."""
        batch, expired = self._scheduler.next_batch(time.monotonic(), idle)
        if batch is not None:
            alone = self._running == 0 and self._scheduler.rows_held == batch.rows
            batch.all_cores = alone and self.costs.takes_all_cores(batch.stage, batch.rows)
            self._running += 1
        return batch, expired

    def _wake_worker(self) -> None:
        """Wake one worker if none runs, another one only for work that is worth it."""
        waiting_seconds = self._scheduler.waiting_seconds()
        if waiting_seconds >= WORTH_A_WORKER_SECONDS or (waiting_seconds and self._running == 0):
            self._changed.notify()

    def _run(self, batch: Batch) -> None:
        """Run a batch and finish its rows, whatever happens."""
        try:
            started = time.monotonic()
            run = run_batch(self._runner, batch)
            if len(run.failures) == batch.rows:
                self._probe(batch.stage)
            self.accounts.ran(batch, started)
            self._finish(batch, run)
        except Exception as error:  # our own bug: its batch fails, the thread goes on
            self._give_up(batch, error)

    def _finish(self, batch: Batch, run: BatchRun) -> None:
        final = batch.stage == len(self.manifest.stages) - 1
        readout = read_exit(run.logits_BK, self.manifest.exits[batch.stage].calibration_temperature)
        reason_B = decide(readout.confidence_B, batch.thresholds(), batch.capped(), final=final)
        leaves_B = reason_B != STAYS
        leaving = batch.count(leaves_B)
        spoilt = bool(run.failures) or bool(np.isnan(readout.confidence_B[leaves_B]).any())
        ended: list[tuple[Request, Answers | Exception]] = []
        left: list[tuple[RowGroup, slice]] = []
        try:
            with self._changed:
                for (group, place), count in zip(batch.parts(), leaving, strict=True):
                    request = group.request
                    if request.abandoned:
                        continue
                    failure = _failure(batch.stage, place, readout, leaves_B, run) if spoilt else None
                    if failure is not None:
                        request.closed = True
                        ended.append((request, failure))
                    elif count:
                        left.append((group, place))
                        if _answer(group, place, count, batch.stage, readout, reason_B):
                            assert request.answers is not None, "a request ends with its last answer"
                            ended.append((request, request.answers))
                self._scheduler.advance(batch, leaves_B, time.monotonic())
                self._end_run()
            self.accounts.left(batch.stage, left, readout.confidence_B, reason_B)
        finally:  # what was decided is told, whatever goes wrong after
            for request, outcome in ended:
                request.reply.settle(outcome)

    def _end_run(self) -> None:
        self._running -= 1
        if not self._open:
            self._changed.notify_all()

    def _probe(self, stage: int) -> None:
        """After a batch of which nothing ran, ask whether anything does; if not, take no more requests."""
        try:
            self._runner.probe()
        except Exception as error:
            self._broken = True
            _LOG.error("model broken", model=self.manifest.name, stage=stage, exc_info=error)

    def _give_up(self, batch: Batch, error: Exception) -> None:
        _LOG.error("batch given up", model=self.manifest.name, stage=batch.stage, exc_info=error)
        failed: list[Request] = []
        with self._changed:
            for group in batch.groups:
                if not group.request.abandoned:
                    group.request.closed = True
                    failed.append(group.request)
            if batch.groups:
                self._scheduler.advance(batch, np.ones(batch.rows, dtype=np.bool_), time.monotonic())
                self._end_run()
        for request in failed:
            failure = StageFailed(f"stage {batch.stage} could not be finished")
            failure.__cause__ = error
            request.reply.settle(failure)


def _expire(requests: list[Request]) -> None:
    for request in requests:
        request.reply.settle(DeadlineExpired("the deadline passed before the last row was answered"))


def _failure(
    stage: int, place: slice, readout: Readout, leaves_B: Bools, run: BatchRun
) -> StageFailed | None:
    """Say why a group's request fails at this stage, if it does."""
    failure = run.failure_in(place)
    if failure is None and np.isnan(readout.confidence_B[place][leaves_B[place]]).any():
        return StageFailed(f"stage {stage} gave NaN on a row of this request that had to leave there")
    return failure


def _answer(
    group: RowGroup, place: slice, count: int, stage: int, readout: Readout, reason_B: Integers
) -> bool:
    """Write the answers of a group's leaving rows, so many of them; True where that was the last."""
    request = group.request
    if count == request.rows:
        request.answers = Answers.at_once(readout, place, stage, reason_B)
    else:
        if request.answers is None:
            request.answers = Answers.empty(request.rows, readout.probabilities_BK.shape[1])
        at_G = np.flatnonzero(reason_B[place] != STAYS)
        at_B = at_G + place.start
        request.answers.write(group.rows_G[at_G], readout, at_B, stage, reason_B[at_B])
    request.unanswered -= count
    if request.unanswered == 0:
        request.closed = True
        request.answers.queue_seconds = request.queue_seconds
    return request.closed
