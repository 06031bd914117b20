"""Checks a version's certificates and its traffic against the manifest while it serves.

For each operating point that may leave early, sampled rows show how often its answers agree with the
final exit's. Where the test says that the certificate no longer holds, the point is revoked, and its
name stands for the next safer point from then on. Beside it, shares of exits and confidences are
compared with the manifest's baseline; that only warns. Safe to call from any thread; knows no queue
and no session.

A sampled row that leaves early is answered, then goes on to the final exit as a shadow request of its
own, in the batches of the other rows: it is never shed, and costs only the stages that are left.
"""

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from serving.engine.request import NO_DEADLINE, Answers, Request, Result
from serving.exits.points import PointsInForce
from serving.exits.policy import ExitRule
from serving.metrics import ModelMetrics
from serving.monitor.drift import DriftWatch
from serving.monitor.point_watch import PointWatch, SampledRow
from serving.monitor.sampling import Sampler
from serving.repository.manifest import EXACT_POINT, Manifest, Thresholds

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class MonitorLimits:
    """How closely a version is watched, and when it is too much."""

    shadow_share: float = 0.0
    """The chance that a row is sampled; 0 samples none."""
    max_missing_share: float = 0.2
    """Of the last rows that left early, how many may be missing before a test pauses."""
    drift_rows: int = 1000
    drift_alarm: float = 0.1


@dataclass(frozen=True)
class Revocation:
    """The evidence upon which a certificate was revoked."""

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
    """What sampled rows show about its own thresholds; None for those of full depth."""


class Monitor:
    """Watches one served version."""

    def __init__(
        self,
        manifest: Manifest,
        points: PointsInForce,
        limits: MonitorLimits,
        metrics: ModelMetrics,
        on_revoked: Callable[[Revocation], None],
    ) -> None:
        """Take what to call when a point is revoked, in the thread that found it broken."""
        self._points = points
        self._manifest = manifest
        self._limits = limits
        self._metrics = metrics
        self._on_revoked = on_revoked
        self._who = {"model": manifest.name, "version": manifest.version}
        self._final_exit = len(manifest.stages) - 1
        self._full_depth = ExitRule((None,) * self._final_exit, self._final_exit, EXACT_POINT)
        self._lock = threading.RLock()
        self._sampler = Sampler(limits.shadow_share)
        self._sampled: dict[Request, tuple[PointWatch, dict[int, SampledRow]]] = {}
        """Of the requests that have not ended: their sampled rows, by number, that have not left early."""
        self._watches = {
            name: self._new_watch(name)
            for name, point in manifest.operating_points.items()
            if any(threshold is not None for threshold in point.thresholds)
        }
        for name in points.revoked:
            self._watches[name].close()
        first = manifest.exits[0].confidence
        self._alarmed: set[str] = set()
        self._confidence: DriftWatch | None = None
        if first is not None:
            self._confidence = self._new_drift(first.shares, first.edges)
        self._show_points()

    def sample(self, rows: int, rule: ExitRule) -> Sequence[int]:
        """Return the numbers of the rows sampled in a new request; none under a rule that is no point's."""
        with self._lock:
            sampled = self._sampler.sample(rows)
        return sampled if sampled and self._watch_of(rule) is not None else ()

    def admitted(self, request: Request) -> None:
        """Note a request with sampled rows; to be called before it can end."""
        watch = self._watch_of(request.rule)
        assert watch is not None, "rows are sampled only under a point's own rule"
        with self._lock:
            self._sampled[request] = watch, {number: watch.add() for number in request.sampled_rows}

    def follow(self, request: Request, number: int, label: int) -> Request | None:
        """Have a sampled row, which leaves early with this label, go on to full depth.

        Returns the shadow request for it, whose reply compares both; None where its request has ended.
        """
        with self._lock:
            if request not in self._sampled:
                return None
            watch, sampled = self._sampled[request]
            row = sampled.pop(number)
        reply = partial(self._end_shadow, watch, row, label)
        return Request({}, 1, self._full_depth, NO_DEADLINE, reply, is_shadow=True)

    def _end_shadow(self, watch: PointWatch, row: SampledRow, label: int, result: Result) -> None:
        with self._lock:
            if isinstance(result, Exception):
                watch.lost(row)
                return
            watch.compared(row, agreed=int(result.label_R[0]) == label)
            current = self._watches[watch.name] is watch  # else the point was reinstated meanwhile
            if watch.broken and current and watch.name not in self._points.revoked:
                self._revoke(watch)

    def observe(self, ended: Iterable[tuple[Request, Result]], first_exit: Iterable[float] = ()) -> None:
        """Take in requests that ended, and the confidences of a batch's rows at exit 0."""
        with self._lock:
            for request, result in ended:
                watch = self._watch_of(request.rule)
                exits = result.exit_R.tolist() if isinstance(result, Answers) else []
                if watch is not None and watch.exits.add(exits):
                    self._show_drift(watch.exits, f"exits of {watch.name}", watch.name)
                if request.sampled_rows:
                    self._settle(request, answered=isinstance(result, Answers))
            if self._confidence is not None and self._confidence.add(first_exit):
                self._show_drift(self._confidence, "confidence", None)

    def _settle(self, request: Request, *, answered: bool) -> None:
        """Count the sampled rows that did not leave early."""
        watch, rows = self._sampled.pop(request)
        for row in rows.values():
            if answered:
                watch.reached_final_exit(row)
            else:
                watch.lost(row)

    def keep_revoked(self, names: Container[str]) -> None:
        """Reinstate every revoked point that is not among these names; their tests start again."""
        with self._lock:
            for name in [each for each in self._points.revoked if each not in names]:
                self._points.reinstate(name)
                self._watches[name] = self._new_watch(name)
                _LOG.warning("certificate reinstated", **self._who, operating_point=name)
            self._show_points()

    def states(self) -> Iterator[PointState]:
        """Yield what each operating point stands for now, and what is known of its certificate."""
        for name in self._manifest.operating_points:
            yield PointState(
                name,
                self._points.in_force(name),
                self._points.thresholds(name),
                revoked=name in self._points.revoked,
                watch=self._watches.get(name),
            )

    def _watch_of(self, rule: ExitRule) -> PointWatch | None:
        """Return the watch of a rule that is a point's own, uncapped."""
        return self._watches.get(rule.operating_point) if rule.max_exit == self._final_exit else None

    def _new_watch(self, name: str) -> PointWatch:
        point = self._manifest.operating_points[name]
        return PointWatch(
            name,
            point,
            self._metrics,
            max_missing_share=self._limits.max_missing_share,
            exits=self._new_drift(point.exit_shares, range(1, len(point.exit_shares))),
        )

    def _new_drift(self, shares: Sequence[float], edges: Sequence[float]) -> DriftWatch:
        return DriftWatch(shares, edges, window_rows=self._limits.drift_rows, alarm=self._limits.drift_alarm)

    def _revoke(self, watch: PointWatch) -> None:
        assert watch.test is not None, "only a test can show that a certificate is broken"
        watch.close()
        revocation = Revocation(
            operating_point=watch.name,
            in_force=self._points.revoke(watch.name),
            epsilon=watch.test.epsilon,
            delta=watch.test.delta,
            shadow_rows=watch.test.rows,
            disagreements=watch.test.disagreements,
        )
        _LOG.error("certificate revoked", **self._who, **vars(revocation))
        self._show_points()
        self._on_revoked(revocation)

    def _show_drift(self, watch: DriftWatch, signal: str, point: str | None) -> None:
        self._metrics.drift(signal, watch.index, alarmed=watch.alarmed, point=point)
        if watch.alarmed != (signal in self._alarmed):
            self._alarmed ^= {signal}
            what = "drift" if watch.alarmed else "drift is over"
            _LOG.warning(what, **self._who, signal=signal, stability_index=round(watch.index, 3))

    def _show_points(self) -> None:
        for name in self._manifest.operating_points:
            holds = name not in self._points.revoked
            self._metrics.in_force(name, self._points.thresholds(name), holds=holds)
