"""The engine of one model version: `submit(inputs, rule, deadline)` is its one door.

Worker threads repeat three verbs: schedule a batch, run its stage, finish its rows. The lock guards
the scheduler and the requests' state and is never held while a stage runs. Knows nothing of gRPC or of
an event loop: an answer is a concurrent future, and cancelling it takes the rows out at the next stage
boundary.

Invariants: every row is answered exactly once; a row's answer does not depend on its batch-mates; a
cancelled or failing row never strands or spoils another; NaN is never confident, and where a row would
have to leave with it, its request fails.
"""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import structlog

from serving.engine.admission import Admission
from serving.engine.batch_run import BatchRun, run_batch
from serving.engine.devices import Device
from serving.engine.policy import (
    STAYS,
    ExitReason,
    ExitRule,
    Floats,
    Integers,
    Readout,
    decide,
    read_exit,
)
from serving.engine.request import Answers, Batch, InputArrays, Request, RowGroup
from serving.engine.scheduler import Scheduler
from serving.engine.stages import open_stages
from serving.engine.statistics import Statistics
from serving.errors import DeadlineExpired, StageFailed
from serving.metrics import ModelMetrics
from serving.repository.repository import PublishedVersion

NO_DEADLINE = float("inf")

_LOG = structlog.get_logger(__name__)

_REASON_NAMES = [reason.name.lower() for reason in sorted(ExitReason)]


@dataclass(frozen=True)
class EngineLimits:
    """How much one version's engine holds, and how much of it runs at once."""

    max_batch_size: int
    max_queue_size: int
    slots: int
    workers: int
    patience: int


class Engine:
    """Runs the rows of all requests for one version through its stages."""

    def __init__(
        self, version: PublishedVersion, device: Device, limits: EngineLimits, metrics: ModelMetrics
    ) -> None:
        self.manifest = version.manifest
        self.max_batch_size = limits.max_batch_size
        self.statistics = Statistics()
        self.metrics = metrics
        self._admission = Admission(limits.max_batch_size, limits.max_queue_size)
        self._runner = open_stages(
            version, device, slots=limits.slots, warm_up_rows=(1, limits.max_batch_size)
        )
        self._scheduler = Scheduler(
            len(self.manifest.stages),
            max_batch_size=limits.max_batch_size,
            slots=limits.slots,
            patience=limits.patience,
        )
        self._changed = threading.Condition()
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

    def submit(
        self, inputs: InputArrays, rule: ExitRule, deadline_seconds: float = NO_DEADLINE
    ) -> "Future[Answers]":
        """Admit a request whole, or raise; the future gives its answers once its last row has left.

        inputs: an array [R, ...] for each of the manifest's inputs, unchanged until answered.
        deadline_seconds is on the monotonic clock. Raises InvalidRequest, Overloaded,
        DeadlineExpired or ModelNotReady at once; the future may raise StageFailed or
        DeadlineExpired, and cancelling it gives the rows up.
        """
        rows = len(next(iter(inputs.values())))
        answers = Answers.empty(rows, len(self.manifest.labels))
        request = Request(inputs, rows, rule, deadline_seconds, answers)
        with self._changed:
            self._admission.check(
                rows,
                rows_held=self._scheduler.rows_held,
                deadline_seconds=deadline_seconds,
                now=request.admitted_seconds,
                ready=self.ready,
            )
            self._scheduler.admit(request)
            self._changed.notify()
        return request.future

    def close(self) -> None:
        """Refuse new requests, answer the admitted ones, and stop the workers; blocks until done."""
        with self._changed:
            if not self._open:
                return
            self._open = False
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()
        self.metrics.forget_waiting()

    def _serve(self) -> None:
        while (batch := self._schedule()) is not None:
            try:
                started = time.monotonic()
                run = run_batch(self._runner, batch)
                if len(run.failures) == batch.rows:
                    self._probe(batch.stage)
                self._note_run(batch, started)
                self._finish(batch, run)
            except Exception as error:  # our own bug: its batch fails, the worker goes on
                self._give_up(batch, error)

    def _schedule(self) -> Batch | None:
        """Wait for the next batch; None once the engine is closed and empty."""
        while True:
            with self._changed:
                batch, expired = self._scheduler.next_batch(time.monotonic())
                if batch is None and not expired:
                    if not self._open and self._scheduler.rows_held == 0:
                        self._changed.notify_all()
                        return None
                    self._changed.wait()
            for request in expired:
                request.resolve(DeadlineExpired("the deadline passed before the last row was answered"))
            if batch is not None:
                return batch

    def _finish(self, batch: Batch, run: BatchRun) -> None:
        final = batch.stage == len(self.manifest.stages) - 1
        readout = read_exit(run.logits_BK, self.manifest.exits[batch.stage].calibration_temperature)
        reason_B = decide(readout.confidence_B, batch.thresholds(), batch.capped(), final=final)
        answered_B = reason_B != STAYS
        parts = list(batch.parts())
        ended: list[tuple[Request, Answers | Exception]] = []
        try:
            with self._changed:
                for group, place in parts:
                    request = group.request
                    failure = (
                        None if request.abandoned else _failure(batch.stage, place, readout, reason_B, run)
                    )
                    if failure is not None:
                        request.closed = True
                        ended.append((request, failure))
                    if request.abandoned:
                        answered_B[place] = False
                    elif _answer(group, place, batch.stage, readout, reason_B):
                        ended.append((request, request.answers))
                self._scheduler.advance(batch, reason_B != STAYS, time.monotonic())
                self._changed.notify_all()
            for group, place in parts:
                self._note_exits(batch.stage, group, reason_B[place][answered_B[place]])
            self._note_answered(batch.stage, readout.confidence_B[answered_B])
        finally:  # what was decided is told, whatever goes wrong after
            for request, outcome in ended:
                request.resolve(outcome)

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
            self._changed.notify_all()
        for request in failed:
            failure = StageFailed(f"stage {batch.stage} could not be finished")
            failure.__cause__ = error
            request.resolve(failure)

    def _note_run(self, batch: Batch, started: float) -> None:
        self.metrics.ran(batch.stage, batch.rows, time.monotonic() - started)
        if batch.stage == 0:
            self.statistics.count_first_stage_run()
        for group in batch.groups:
            waited = started - group.queued_seconds
            self.metrics.waited(batch.stage, waited)
            if batch.stage == 0 and group.rows_G[0] == 0:
                group.request.answers.queue_seconds = waited

    def _note_exits(self, stage: int, group: RowGroup, reason_G: Integers) -> None:
        for reason, rows in enumerate(np.bincount(reason_G).tolist()):
            if rows:
                point = group.request.rule.operating_point
                self.metrics.exited(stage, _REASON_NAMES[reason], point, rows)

    def _note_answered(self, stage: int, confidence_A: Floats) -> None:
        spent, full = self.manifest.multiply_adds[stage], self.manifest.multiply_adds[-1]
        self.metrics.left_with(stage, confidence_A.tolist())
        self.metrics.spent(len(confidence_A) * spent, len(confidence_A) * (full - spent))


def _failure(
    stage: int, place: slice, readout: Readout, reason_B: Integers, run: BatchRun
) -> StageFailed | None:
    """Say why a group's request fails at this stage, if it does."""
    failure = run.failure_in(place)
    leaving_G = reason_B[place] != STAYS
    if failure is None and np.isnan(readout.confidence_B[place][leaving_G]).any():
        return StageFailed(f"stage {stage} gave NaN on a row of this request that had to leave there")
    return failure


def _answer(group: RowGroup, place: slice, stage: int, readout: Readout, reason_B: Integers) -> bool:
    """Write the answers of a group's leaving rows; True where that was the request's last."""
    at_G = np.flatnonzero(reason_B[place] != STAYS)
    at_B = at_G + place.start
    request = group.request
    request.answers.write(group.rows_G[at_G], readout, at_B, stage, reason_B[at_B])
    request.unanswered -= len(at_G)
    request.closed = request.unanswered == 0
    return request.closed
