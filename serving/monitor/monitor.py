"""Checks a version's certificates and its traffic against the manifest while it serves.

For each operating point that may leave early, sampled rows show how often its answers agree with the
final exit's. Where the test shows that the certificate no longer holds, the point is revoked, and its
name stands for the next safer point from then on. Beside it, shares of exits and confidences are
compared with the manifest's baseline; that only warns. Safe to call from any thread; knows no queue
and no session.

A sampled row that leaves early is answered, then goes on to the final exit as a shadow request of its
own, in the batches of the other rows: it is never shed, and costs only the stages that are left.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import structlog

from serving.engine.request import NO_DEADLINE, Answers, Request, Result
from serving.exits.points import PointsInForce, RevokedBy
from serving.exits.policy import ExitRule
from serving.metrics import ModelMetrics
from serving.monitor.agreement import Verdict
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
    """Of the last rows that left early, how many may be missing before an alarm is raised."""
    on_broken: Literal["demote", "warn"] = "demote"
    """What happens to a point whose certificate is broken: it is revoked, or it is only logged."""
    drift_rows: int = 1000
    drift_alarm: float = 0.1


@dataclass(frozen=True)
class Revocation:
    """The evidence upon which a certificate was revoked."""

    operating_point: str
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
    revoked_by: RevokedBy | None
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
        """Take what to call before a point is revoked, in the thread that found it broken.

        on_revoked: keeps the revocation; quick, and it never raises.
        """
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
            name: self._new_watch(name) for name in manifest.operating_points if name in points.revocable
        }
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
            rows = {number: watch.add(request.caller) for number in request.sampled_rows}
            self._sampled[request] = watch, rows

    def follow(self, request: Request, number: int, label: int) -> Request | None:
        """Have a sampled row, which leaves early with this label, go on to full depth.

        Returns the shadow request for it, whose reply compares both; None where its request has ended.
        """
        digest = _digest(request, number)
        with self._lock:
            if request not in self._sampled:
                return None
            watch, sampled = self._sampled[request]
            row = sampled.pop(number)
            row.digest = digest
        reply = partial(self._end_shadow, watch, row, label)
        return Request({}, 1, self._full_depth, NO_DEADLINE, reply, is_shadow=True)

    def _end_shadow(self, watch: PointWatch, row: SampledRow, label: int, result: Result) -> None:
        with self._lock:
            if isinstance(result, Exception):
                watch.lost(row)
            else:
                watch.compared(row, agreed=int(result.label_R[0]) == label)

    def observe(self, ended: Iterable[tuple[Request, Result]], first_exit: Iterable[float] = ()) -> None:
        """Take in requests that ended, and the confidences of a batch's rows at exit 0."""
        with self._lock:
            for request, result in ended:
                watch = self._watch_of(request.rule)
                exits = result.exit_R.tolist() if isinstance(result, Answers) else []
                if watch is not None and not request.is_synthetic and watch.exits.add(exits):
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

    def take_up(self, revoked_by: Callable[[str], RevokedBy | None]) -> None:
        """Revoke the points that were revoked elsewhere, and reinstate those that no longer are.

        revoked_by: who revoked a point, by its name; None where it is in force. It knows of this
        monitor's own revocations, which are kept before they take effect, so none is undone here.
        """
        with self._lock:
            for name in self._watches:
                by = revoked_by(name)
                if by == self._points.revoked.get(name):
                    continue
                if by is None:
                    self._points.reinstate(name)
                    self._watches[name] = self._new_watch(name)
                    self._watches[name].show()
                else:
                    self._points.revoke(name, by)
                self._show_points()
                event = "operating point reinstated" if by is None else "operating point revoked"
                in_force = self._points.in_force(name)
                _LOG.warning(event, **self._who, operating_point=name, in_force=in_force, by=by)

    def states(self) -> Iterator[PointState]:
        """Yield what each operating point stands for now, and what is known of its certificate."""
        for name in self._manifest.operating_points:
            yield PointState(
                name,
                self._points.in_force(name),
                self._points.thresholds(name),
                revoked_by=self._points.revoked.get(name),
                watch=self._watches.get(name),
            )

    def close(self) -> None:
        """Let the watches go, which hold the monitor: no request may be in flight or come."""
        with self._lock:
            self._watches.clear()

    def _watch_of(self, rule: ExitRule) -> PointWatch | None:
        """Return the watch of a rule that is a point's own, uncapped."""
        return self._watches.get(rule.operating_point) if rule.max_exit == self._final_exit else None

    def _new_watch(self, name: str) -> PointWatch:
        point = self._manifest.operating_points[name]
        return PointWatch(
            name,
            point,
            self._metrics,
            on_verdict=self._judge,
            max_missing_share=self._limits.max_missing_share,
            exits=self._new_drift(point.exit_shares, range(1, len(point.exit_shares))),
        )

    def _new_drift(self, shares: Sequence[float], edges: Sequence[float]) -> DriftWatch:
        return DriftWatch(shares, edges, window_rows=self._limits.drift_rows, alarm=self._limits.drift_alarm)

    def _judge(self, watch: PointWatch) -> None:
        """Act upon what a point's test shows now; called with the lock held."""
        if self._watches.get(watch.name) is not watch or watch.name in self._points.revoked:
            return  # it was reinstated or revoked meanwhile
        assert watch.test is not None, "only a test gives a verdict"
        revocation = Revocation(
            operating_point=watch.name,
            epsilon=watch.test.epsilon,
            delta=watch.test.delta,
            shadow_rows=watch.test.rows,
            disagreements=watch.test.disagreements,
        )
        if watch.verdict is Verdict.SUSPECTED:
            _LOG.warning("certificate suspected", **self._who, **vars(revocation), caller=watch.test.suspect)
        elif watch.verdict is Verdict.HOLDS:
            _LOG.info("certificate no longer suspected", **self._who, operating_point=watch.name)
        elif self._limits.on_broken == "warn":
            self._show_points()
            _LOG.error("certificate broken", **self._who, **vars(revocation))
        else:
            self._on_revoked(revocation)  # first: what takes effect must be known to be kept
            in_force = self._points.revoke(watch.name, "monitor")
            self._show_points()
            _LOG.error("certificate revoked", **self._who, **vars(revocation), in_force=in_force)

    def _show_drift(self, watch: DriftWatch, signal: str, point: str | None) -> None:
        self._metrics.drift(signal, watch.index, alarmed=watch.alarmed, point=point)
        if watch.alarmed != (signal in self._alarmed):
            self._alarmed ^= {signal}
            what = "drift" if watch.alarmed else "drift is over"
            _LOG.warning(what, **self._who, signal=signal, stability_index=round(watch.index, 3))

    def _show_points(self) -> None:
        for name in self._manifest.operating_points:
            watch = self._watches.get(name)
            broken = watch is not None and watch.verdict is Verdict.BROKEN
            holds = not broken and name not in self._points.revoked
            self._metrics.in_force(name, self._points.thresholds(name), holds=holds)


def _digest(request: Request, number: int) -> bytes:
    """Return a digest of the bytes of one row of a request."""
    digest = hashlib.blake2b(digest_size=16)
    for array in request.inputs.values():
        digest.update(array[number].tobytes())
    return digest.digest()
