"""Holds a version's promises against what it serves: certificates by shadow rows, drift by shares.

Of each operating point that may leave early it learns from drawn rows how often its answers agree with
the final exit's; where the test says that the certificate no longer holds, the point is revoked, and
its name stands for the next safer point from then on. Beside it, shares of exits and confidences are
compared with the manifest's baseline; that only warns. Lives in the engine's host, one call at a time;
knows no queue and no session.
"""

import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from serving.engine.drift import DriftWatch
from serving.engine.point_watch import DrawnRow, PointWatch
from serving.engine.points import PointsInForce
from serving.engine.policy import ExitRule, Floats
from serving.engine.request import Answers, InputArrays, Request
from serving.engine.shadow import Draws, ShadowRow, Shadows, copy_of
from serving.metrics import ModelMetrics
from serving.repository.manifest import Manifest, Thresholds

LONGEST_WAIT_SECONDS = 60.0
"""A drawn row whose full-depth answer could not be learnt for so long is missing."""

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class MonitorLimits:
    """How closely a version is watched, and when it is too much."""

    shadow_share: float = 0.0
    """The chance that a row is drawn; 0 draws none."""
    max_missing_share: float = 0.2
    """Of the last rows that left early, how many may be missing before a test pauses."""
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
            name: self._new_watch(name)
            for name, point in manifest.operating_points.items()
            if any(threshold is not None for threshold in point.thresholds)
        }
        for name in self.points.revoked:
            self._watches[name].close()
        first = manifest.exits[0].confidence
        self._alarmed: set[str] = set()
        self._confidence: DriftWatch | None = None
        if first is not None:
            self._edges = np.array(first.edges)
            self._confidence = self._new_drift(first.shares)
        self._show_points()

    def _new_watch(self, name: str) -> PointWatch:
        point = self._manifest.operating_points[name]
        return PointWatch(
            name,
            point,
            self._metrics,
            max_missing_share=self._limits.max_missing_share,
            exits=self._new_drift(point.exit_shares),
        )

    def _new_drift(self, shares: Sequence[float]) -> DriftWatch:
        return DriftWatch(shares, window_rows=self._limits.drift_rows, alarm=self._limits.drift_alarm)

    def admitted(self, request: Request) -> None:
        """Draw among the rows of a request that was let in."""
        numbers = self._draws.among(request.rows)
        watch = self._watch_of(request.rule) if numbers else None
        if watch is not None:
            self._shadows.give_up_before(time.monotonic() - LONGEST_WAIT_SECONDS)
            request.drawn = [watch.draw(request, number) for number in numbers]

    def _watch_of(self, rule: ExitRule) -> PointWatch | None:
        """Give the watch of a rule that is a point's own, uncapped."""
        return self._watches.get(rule.operating_point) if rule.max_exit == self._final_exit else None

    def read_first_exit(self, confidence_B: Floats) -> None:
        """Take in the confidences of a batch at exit 0, of rows that leave and of those that go on."""
        watch = self._confidence
        if watch is not None and watch.count(self._edges.searchsorted(confidence_B, side="right")):
            self._note_drift(watch, "confidence", self._metrics.confidence_drift)

    def answered(self, request: Request, answers: Answers) -> None:
        """Take in where the rows of an answered request left, and follow those that were drawn."""
        watch = self._watch_of(request.rule)
        if watch is None:
            return
        if watch.exits.count(answers.exit_R):
            signal = f"exits of {watch.name}"
            self._note_drift(watch.exits, signal, partial(self._metrics.exit_drift, watch.name))
        for drawn in request.drawn:
            drawn.request = None
            if answers.exit_R[drawn.number] == self._final_exit:
                watch.reached_final_exit(drawn)
            else:
                self._shadows.add(self._shadow_of(drawn, watch, request.inputs, answers))

    def _shadow_of(
        self, drawn: DrawnRow, watch: PointWatch, inputs: InputArrays, answers: Answers
    ) -> ShadowRow:
        return ShadowRow(
            copy_of(inputs, drawn.number),
            int(answers.label_R[drawn.number]),
            time.monotonic(),
            learnt=partial(self._learnt, watch, drawn),
            lost=partial(watch.lost, drawn),
        )

    @property
    def shadow_rows(self) -> int:
        """How many shadow rows run now."""
        return self._shadows.rows_running

    @property
    def shadows_wait(self) -> bool:
        """Whether some rows wait for their full-depth answer."""
        return self._shadows.some_wait

    def shadows_due(self, now: float) -> bool:
        """Whether shadow rows should run, if a worker has nothing else to do."""
        return self._shadows.due(now)

    def begin_shadows(self) -> list[ShadowRow]:
        """Give the shadow rows that run next."""
        return self._shadows.begin()

    def end_shadow(self, row: ShadowRow, outcome: Answers | Exception) -> None:
        """Take in a shadow row's full-depth answer."""
        self._shadows.end(row, outcome)

    def keep_revoked(self, names: Container[str]) -> None:
        """Put the other points back in force, on an operator's word; their tests start anew."""
        for name in [each for each in self.points.revoked if each not in names]:
            self.points.reinstate(name)
            self._watches[name] = self._new_watch(name)
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

    def _learnt(self, watch: PointWatch, drawn: DrawnRow, agreed: bool) -> None:
        watch.learnt(drawn, agreed=agreed)
        if watch.broken and watch.name not in self.points.revoked:
            self._revoke(watch)

    def _revoke(self, watch: PointWatch) -> None:
        assert watch.test is not None, "only a test can say that a certificate is broken"
        watch.close()
        revocation = Revocation(
            operating_point=watch.name,
            in_force=self.points.revoke(watch.name),
            epsilon=watch.test.epsilon,
            delta=watch.test.delta,
            shadow_rows=watch.test.rows,
            disagreements=watch.test.disagreements,
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
