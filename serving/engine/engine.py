"""The engine of one model version: `enter(inputs, rule, deadline, reply)` is its one door.

Three verbs are repeated: schedule a batch, run its stage, finish its rows. Scheduling and finishing are
done one at a time by the engine's host, running by worker threads; a short batch that is alone is run
at once in the thread that brought it, which spares two changes of thread. Knows nothing of gRPC or of
an event loop: host and reply are handed in.

Invariants: every row is answered exactly once; a row's answer does not depend on its batch-mates; a
cancelled or failing row never strands or spoils another; NaN is never confident, and where a row would
have to leave with it, its request fails. While rows wait, a batch runs, or a turn is due.
"""

import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from serving.engine.accounts import Accounts
from serving.engine.admission import Admission
from serving.engine.batch_run import BatchRun
from serving.engine.decision import Decision
from serving.engine.devices import Device
from serving.engine.host import Host, ThreadHost
from serving.engine.monitor import Monitor, MonitorLimits, PointState, Revocation
from serving.engine.points import PointsInForce
from serving.engine.policy import ExitRule
from serving.engine.request import Answers, Batch, FutureReply, InputArrays, Reply, Request, RowGroup
from serving.engine.rules import ExitWishes, exit_rule
from serving.engine.scheduler import Scheduler
from serving.engine.shadow import ShadowReply, ShadowRow, rows_a_run
from serving.engine.stages import open_stages
from serving.engine.workers import Workers
from serving.errors import DeadlineExpired, StageFailed
from serving.metrics import ModelMetrics
from serving.repository.manifest import EXACT_POINT
from serving.repository.repository import PublishedVersion

NO_DEADLINE = float("inf")
LOOK_SECONDS = 5e-3
"""How often it is looked whether a worker has time for rows that wait for their full-depth answer."""

FAR_TOO_LONG = 50
"""How many times longer than it may a batch takes that must not happen again to its caller's thread."""

_LOG = structlog.get_logger(__name__)

Outcomes = list[tuple[Request, Answers | Exception]]


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
        host: Host | None = None,
        *,
        watch: MonitorLimits | None = None,
        revoked: Iterable[str] = (),
        on_revoked: Callable[[Revocation], None] = lambda _: None,
    ) -> None:
        """Open and warm up the stages and start the workers; without a host, callers are threads.

        revoked: operating points whose certificates were taken back before; on_revoked is told, in the
        host, of those taken back from now on.
        """
        self.manifest = version.manifest
        self.points = PointsInForce(self.manifest, revoked)
        self.max_batch_size = limits.max_batch_size
        self.accounts = Accounts(self.manifest, metrics)
        self._host = host or ThreadHost()
        self._caller_seconds = limits.caller_seconds
        self._admission = Admission(limits.max_batch_size, limits.max_queue_size)
        self._runner, self.costs = open_stages(
            version,
            device,
            max_batch_size=limits.max_batch_size,
            slots=limits.slots,
            lone_threads=limits.lone_threads,
        )
        self._monitor = Monitor(
            self.manifest,
            self.points,
            watch or MonitorLimits(),
            metrics,
            rows_a_run=rows_a_run(self.costs.side_by_side, len(self.manifest.stages)),
            on_revoked=on_revoked,
        )
        self._scheduler = Scheduler(
            self.costs.side_by_side,
            stages=len(self.manifest.stages),
            max_rows=limits.max_batch_size,
            slots=limits.slots,
            patience=limits.patience,
            padded=device.padded,
        )
        self._workers = Workers(self.manifest.name, limits.workers, lambda run: self._execute(run, 0))
        self._full_depth = exit_rule(self.points, ExitWishes(operating_point=EXACT_POINT))
        self._turn_asked = False
        self._look_asked = False
        self._open = True
        self._broken = False
        self._empty = threading.Event()
        metrics.watch_waiting(self._scheduler.waiting)
        self._workers.start()

    @property
    def ready(self) -> bool:
        """Whether it accepts requests, its stages run and every worker lives."""
        return self._open and not self._broken and self._workers.alive

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
        self._host.ask(partial(self._admit, Request(inputs, rows, rule, deadline_seconds, reply)))

    def submit(
        self, inputs: InputArrays, rule: ExitRule, deadline_seconds: float = NO_DEADLINE
    ) -> FutureReply:
        """Enter a request and give its answers as a future: for callers in threads."""
        reply = FutureReply()
        self.enter(inputs, rule, deadline_seconds, reply)
        return reply

    def keep_revoked(self, names: Container[str]) -> None:
        """Put back in force every operating point that is revoked and not among those; from any thread."""
        self._host.tell(partial(self._monitor.keep_revoked, names))

    def point_states(self) -> Iterator[PointState]:
        """Give what each operating point stands for now, and what is known of its certificate."""
        return self._monitor.states()

    def close(self) -> None:
        """Refuse new requests, answer the admitted ones, and stop the workers; blocks until done."""
        if not self._host.ask(self._shut):
            return
        self._empty.wait()
        self._workers.close()
        self._host.ask(self.accounts.close)

    # What follows, down to _turn, is the host's: one piece at a time.

    def _admit(self, request: Request) -> None:
        self._admission.check(
            request.rows,
            rows_held=self._scheduler.rows_held - self._monitor.shadow_rows,
            deadline_seconds=request.deadline_seconds,
            now=request.admitted_seconds,
            ready=self._open and not self._broken,
        )
        self._monitor.admitted(request)
        self._workers.note_arrival(request.admitted_seconds)
        self._scheduler.admit(request)
        self._ask_turn(len(self.manifest.stages))

    def _shut(self) -> bool:
        """Refuse what comes; False where that was done before."""
        was_open, self._open = self._open, False
        if self._scheduler.rows_held == 0:
            self._empty.set()
        return was_open

    def _note_empty(self) -> None:
        if not self._open and self._scheduler.rows_held == 0:
            self._host.after(self._empty.set)  # behind what has yet to be told

    def _ask_turn(self, batches: int) -> None:
        """Have a turn taken after this, in which this thread may run so many short batches itself."""
        if not self._turn_asked:
            self._turn_asked = True
            self._host.after(partial(self._turn, batches))

    def _dispatch(self, *, here: bool) -> BatchRun | None:
        """Form batches for the workers; or give the one batch that there is, to run it here."""
        self._turn_asked = False
        now = time.monotonic()
        quiet = self._workers.is_quiet(now) and self._host.has_time()
        lone = self._scheduler.lone_batch() if quiet else None
        if lone is not None:
            run = self._next_run(now, among=None, alone=self._workers.running == 0)
            if run is None or (here and self.costs.lone_seconds(*lone) <= self._caller_seconds):
                return run
            self._workers.put(run)
        while self._workers.pays_to_start(self._scheduler.waiting_seconds()):
            run = self._next_run(now, among=max(1, self._workers.free))
            if run is None:
                break
            self._workers.put(run)
        return None

    def _ask_for_shadows(self) -> None:
        """Have somebody look soon, while rows wait for their full-depth answer."""
        if self._monitor.shadows_wait and self._open and not self._look_asked:
            self._look_asked = True
            self._host.later(LOOK_SECONDS, self._look_for_shadows)

    def _look_for_shadows(self) -> None:
        """Run such rows if a worker has nothing else to do; else look again later."""
        self._look_asked = False
        now = time.monotonic()
        idle = self._open and self._workers.free and not self._scheduler.waiting_seconds()
        if idle and self._monitor.shadows_due(now):
            self._start_shadows(now)
        self._ask_for_shadows()

    def _start_shadows(self, now: float) -> None:
        """Run rows that were answered before to full depth."""
        for row in self._monitor.begin_shadows():
            reply = ShadowReply(partial(self._tell_of_shadow, row))
            self._scheduler.admit(
                Request(row.inputs, 1, self._full_depth, NO_DEADLINE, reply, is_shadow=True)
            )
        run = self._next_run(now, among=None)
        if run is not None:
            self._workers.put(run)

    def _tell_of_shadow(self, row: ShadowRow, outcome: Answers | Exception) -> None:
        self._host.tell(partial(self._monitor.end_shadow, row, outcome))

    def _next_run(self, now: float, among: int | None, *, alone: bool = False) -> BatchRun | None:
        """Form a batch and make it ready; it counts as running from here on.

        among: how many batches may start and share what waits; None: this one takes all. alone: whether
        it may have all cores.
        """
        batch, expired = self._scheduler.next_batch(now, among)
        if expired:
            late = DeadlineExpired("the deadline passed before the last row was answered")
            self._host.after(partial(_settle, [(request, late) for request in expired]))
        if batch is None:
            self._note_empty()
            return None
        on_all_cores: list[int] = []
        if alone:
            on_all_cores = [each for each in batch.stages if self.costs.takes_all_cores(each, batch.rows)]
        self._workers.count(batch, 1)
        try:
            return BatchRun(self._runner, batch, on_all_cores=on_all_cores)
        except Exception as error:  # our own bug: its batch fails, and a turn for the others is due
            self._give_up(batch, error, batches=0)
            return None

    def _end(self, run: BatchRun, batches: int) -> None:
        """Finish a run, whatever happens."""
        try:
            self._finish(run, batches)
        except Exception as error:  # our own bug: its batch fails, the others go on
            self._give_up(run.batch, error, batches)

    def _finish(self, run: BatchRun, batches: int) -> None:
        """Answer the rows that leave and queue the others."""
        batch, decision = run.batch, Decision.of(run, self.manifest)
        self.accounts.ran(run)
        spoilt = decision.spoilt
        ended: Outcomes = []
        left: list[tuple[RowGroup, slice]] = []
        try:
            for (group, place), leaving in zip(batch.parts(), batch.count(decision.leaves_B), strict=True):
                request = group.request
                if request.abandoned:
                    continue
                failure = decision.failure(place) if spoilt else None
                if failure is not None:
                    request.closed = True
                    ended.append((request, failure))
                elif leaving:
                    answers = decision.answer(group, place, leaving)
                    if answers is not None:
                        ended.append((request, answers))
                    if not request.is_shadow:
                        left.append((group, place))
            self._scheduler.advance(batch, decision.leaves_B, run.times[-1])
            self._workers.count(batch, -1)
        finally:  # what was decided is told, whatever goes wrong after
            self._host.after(partial(_settle, ended))
        self._go_on(batches)
        self.accounts.left(batch.exit, left, decision.readout.confidence_B, decision.reason_B)
        self._watch(decision, ended)

    def _watch(self, decision: Decision, ended: Outcomes) -> None:
        if decision.run.batch.exit == 0:
            self._monitor.read_first_exit(decision.readout.confidence_B)
        for request, outcome in ended:
            if isinstance(outcome, Answers) and not request.is_shadow:
                self._monitor.answered(request, outcome)
        self._ask_for_shadows()

    def _go_on(self, batches: int) -> None:
        self._note_empty()
        if self._scheduler.rows_held:
            self._ask_turn(batches)

    def _give_up(self, batch: Batch, error: Exception, batches: int) -> None:
        _LOG.error("batch given up", model=self.manifest.name, stage=batch.stage, exc_info=error)
        ended: Outcomes = []
        for group in batch.groups:
            if not group.request.abandoned:
                group.request.closed = True
                failure = StageFailed(f"stage {batch.stage} could not be finished")
                failure.__cause__ = error
                ended.append((group.request, failure))
        if batch.groups:
            self._workers.count(batch, -1)
            self._scheduler.advance(batch, np.ones(batch.rows, dtype=np.bool_), time.monotonic())
        self._host.after(partial(_settle, ended))
        self._go_on(batches)

    # What follows runs in any thread.

    def _turn(self, batches: int) -> None:
        """Start what can be started, and run a short batch that is alone here and now."""
        run = self._host.ask(partial(self._dispatch, here=batches > 0))
        if run is not None:
            self._execute(run, batches - 1)
            self._note_time_here(run.times[-1] - run.times[0])

    def _note_time_here(self, seconds: float) -> None:
        """Where a stage's time depends on its rows, warm-up measured too little: never again here then."""
        if seconds > FAR_TOO_LONG * self._caller_seconds:
            _LOG.warning("batches are left to workers", model=self.manifest.name, seconds=seconds)
            self._caller_seconds = 0.0

    def _execute(self, run: BatchRun, batches: int) -> None:
        run.execute()
        if run.nothing_ran:
            self._probe(run.batch.stage)
        self._host.tell(partial(self._end, run, batches))

    def _probe(self, stage: int) -> None:
        """After a batch of which nothing ran, ask whether anything does; if not, take no more requests."""
        try:
            self._runner.probe()
        except Exception as error:
            self._broken = True
            _LOG.error("model broken", model=self.manifest.name, stage=stage, exc_info=error)


def _settle(ended: Outcomes) -> None:
    for request, outcome in ended:
        request.reply.settle(outcome)
