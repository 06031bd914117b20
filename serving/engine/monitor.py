"""Holds a version's promises against what it serves: certificates by shadow rows, drift by shares.

Of each operating point that may leave early it learns from drawn rows how often its answers agree with
the final exit's; where the test says that the certificate no longer holds, the point is revoked, and
its name stands for the next safer point from then on. Beside it, shares of exits and confidences are
compared with the manifest's baseline; that only warns. Lives in the engine's host, one call at a time;
knows no queue and no session.
"""

import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from serving.engine.agreement import AgreementTest
from serving.engine.drift import DriftWatch
from serving.engine.points import PointsInForce
from serving.engine.policy import Floats
from serving.engine.request import Answers, InputArrays, Request
from serving.engine.shadow import Draws, ShadowRow, Shadows, copy_of
from serving.metrics import ModelMetrics
from serving.repository.manifest import Manifest, OperatingPoint, Thresholds

RECENT_ROWS = 100
"""Over how many of the last drawn rows the share of lost ones is taken."""

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class MonitorLimits:
    """How closely a version is watched, and when it is too much."""

    shadow_share: float = 0.0
    """The chance that a row is drawn; 0 draws none."""
    max_missing_share: float = 0.2
    drift_rows: int = 1000
    drift_alarm: float = 0.1


@dataclass(frozen=True)
class Revocation:
    """What a certificate was taken back upon."""

    operating_point: str
    in_force: str
    """The point whose thresholds apply instead."""
    epsilon: float
    delta: float
    shadow_rows: int
    disagreements: int


class DrawnRow:
    """A row whose full-depth answer is known, is to be learnt, or is lost."""

    __slots__ = ("agreed", "settled")

    def __init__(self) -> None:
        self.settled = False
        self.agreed: bool | None = None
        """None while unknown, and where it was lost."""


class PointWatch:
    """What drawn rows say of one operating point's thresholds."""

    def __init__(self, name: str, point: OperatingPoint, limits: MonitorLimits) -> None:
        self.name = name
        self.agreed = self.differed = self.missing = 0
        certificate = point.certificate
        self.test: AgreementTest | None = None
        if certificate is not None and certificate.promises_agreement:
            self.test = AgreementTest(certificate.epsilon, certificate.delta)
        self.exits = DriftWatch(point.exit_shares, window_rows=limits.drift_rows, alarm=limits.drift_alarm)
        self._recent: deque[bool] = deque(maxlen=RECENT_ROWS)
        self._in_order: deque[DrawnRow] = deque()
        self._max_missing_share = limits.max_missing_share

    @property
    def paused(self) -> bool:
        """Whether so many drawn rows were lost lately that the others no longer stand for all."""
        return sum(self._recent) > self._max_missing_share * len(self._recent)

    def drawn(self) -> DrawnRow:
        """Give a row that was answered its place in the order in which rows count."""
        row = DrawnRow()
        self._in_order.append(row)
        return row

    def learnt(self, row: DrawnRow, *, agreed: bool) -> None:
        """Take in that a row's full-depth answer is known."""
        self.agreed += agreed
        self.differed += not agreed
        self._settle(row, agreed)

    def lost(self, row: DrawnRow) -> None:
        """Take in that a row's full-depth answer will never be known."""
        self.missing += 1
        self._settle(row, None)

    def _settle(self, row: DrawnRow, agreed: bool | None) -> None:
        row.settled, row.agreed = True, agreed
        while self._in_order and self._in_order[0].settled:
            first = self._in_order.popleft()
            self._recent.append(first.agreed is None)
            if self.test is not None and first.agreed is not None and not self.paused:
                self.test.count(agreed=first.agreed)


@dataclass(frozen=True)
class PointState:
    """What an operating point's name stands for now."""

    name: str
    in_force: str
    """The point whose thresholds apply."""
    thresholds: Thresholds
    revoked: bool
    watch: PointWatch | None
    """What drawn rows say of its own thresholds; None for those of full depth."""


class Monitor:
    """Watches one served version."""

    def __init__(
        self,
        manifest: Manifest,
        points: PointsInForce,
        limits: MonitorLimits,
        metrics: ModelMetrics,
        *,
        rows_a_run: int,
        on_revoked: Callable[[Revocation], None],
    ) -> None:
        """Take how many shadow rows may run at once, and whom to tell of a revocation."""
        self.points = points
        self._manifest = manifest
        self._limits = limits
        self._metrics = metrics
        self._on_revoked = on_revoked
        self._final_exit = len(manifest.stages) - 1
        self._draws = Draws(limits.shadow_share)
        self._shadows = Shadows(rows_a_run)
        self._watches = {
            name: PointWatch(name, point, limits)
            for name, point in manifest.operating_points.items()
            if any(threshold is not None for threshold in point.thresholds)
        }
        first = manifest.exits[0].confidence
        self._alarmed: set[str] = set()
        self._confidence: DriftWatch | None = None
        if first is not None:
            self._edges = np.array(first.edges)
            self._confidence = DriftWatch(
                first.shares, window_rows=limits.drift_rows, alarm=limits.drift_alarm
            )
        self._show_points()

    def admitted(self, request: Request) -> None:
        """Draw among the rows of a request that was let in."""
        request.drawn = self._draws.among(request.rows)

    def read_first_exit(self, confidence_B: Floats) -> None:
        """Take in the confidences of a batch at exit 0, of rows that leave and of those that go on."""
        watch = self._confidence
        if watch is not None and watch.count(self._edges.searchsorted(confidence_B, side="right")):
            self._note_drift(watch, "confidence", self._metrics.confidence_drift)

    def answered(self, request: Request, answers: Answers) -> None:
        """Take in where the rows of an answered request left, and follow those that were drawn."""
        rule = request.rule
        watch = self._watches.get(rule.operating_point)
        if watch is None or rule.max_exit != self._final_exit:
            return
        if watch.exits.count(answers.exit_R):
            signal = f"exits of {watch.name}"
            self._note_drift(watch.exits, signal, partial(self._metrics.exit_drift, watch.name))
        for row in request.drawn:
            self._follow(watch, request.inputs, answers, row)

    def _follow(self, watch: PointWatch, inputs: InputArrays, answers: Answers, row: int) -> None:
        drawn = watch.drawn()
        learnt = partial(self._learnt, watch, drawn)
        if answers.exit_R[row] == self._final_exit:
            learnt(True)
            return
        label, lost = int(answers.label_R[row]), partial(self._lost, watch, drawn)
        self._shadows.add(ShadowRow(copy_of(inputs, row), label, time.monotonic(), learnt, lost))

    def shadows_due(self, now: float) -> bool:
        """Whether shadow rows should run, if a worker has nothing else to do."""
        return self._shadows.due(now)

    def begin_shadows(self) -> InputArrays:
        """Give the inputs of the shadow rows that run next."""
        return self._shadows.begin()

    def end_shadows(self, outcome: Answers | Exception) -> None:
        """Take in their full-depth answers."""
        self._shadows.end(outcome)

    def keep_revoked(self, names: Container[str]) -> None:
        """Put the other points back in force, on an operator's word; their tests start anew."""
        for name in [each for each in self.points.revoked if each not in names]:
            self.points.reinstate(name)
            self._watches[name] = PointWatch(name, self._manifest.operating_points[name], self._limits)
            _LOG.warning("certificate reinstated", **self._who, operating_point=name)
        self._show_points()

    def states(self) -> Iterator[PointState]:
        """Give what each operating point stands for now, and what is known of its certificate."""
        for name in self._manifest.operating_points:
            yield PointState(
                name,
                self.points.in_force(name),
                self.points.thresholds(name),
                revoked=name in self.points.revoked,
                watch=self._watches.get(name),
            )

    @property
    def _who(self) -> dict[str, object]:
        return {"model": self._manifest.name, "version": self._manifest.version}

    def _learnt(self, watch: PointWatch, row: DrawnRow, agreed: bool) -> None:
        watch.learnt(row, agreed=agreed)
        self._metrics.shadow_learnt(watch.name, agreed=agreed)
        if watch.test is None or self._watches[watch.name] is not watch or watch.name in self.points.revoked:
            return
        self._metrics.evidence(watch.name, watch.test.evidence, paused=watch.paused)
        if watch.test.broken:
            self._revoke(watch, watch.test)

    def _lost(self, watch: PointWatch, row: DrawnRow) -> None:
        watch.lost(row)
        self._metrics.shadow_missing(watch.name)

    def _revoke(self, watch: PointWatch, test: AgreementTest) -> None:
        revocation = Revocation(
            operating_point=watch.name,
            in_force=self.points.revoke(watch.name),
            epsilon=test.epsilon,
            delta=test.delta,
            shadow_rows=test.rows,
            disagreements=test.disagreements,
        )
        _LOG.error("certificate revoked", **self._who, **vars(revocation))
        self._show_points()
        self._on_revoked(revocation)

    def _note_drift(self, watch: DriftWatch, signal: str, show: Callable[[float], None]) -> None:
        show(watch.index)
        self._metrics.drift_alarm(signal, alarmed=watch.alarmed)
        if watch.alarmed != (signal in self._alarmed):
            self._alarmed ^= {signal}
            what = "drift" if watch.alarmed else "drift is over"
            _LOG.warning(what, **self._who, signal=signal, stability_index=round(watch.index, 3))

    def _show_points(self) -> None:
        for name in self._manifest.operating_points:
            holds = name not in self.points.revoked
            self._metrics.in_force(name, self.points.thresholds(name), holds=holds)
