"""Tests a version's certificates on live traffic, and compares the traffic with the manifest.

For each operating point with early exits, sampled rows show how often its answers agree with the final
exit's. If the test shows that the certificate no longer holds, the point is revoked: a safer point replaces
it. Independently, the distributions of exits and confidences are compared with the manifest's baseline,
which only raises alarms. Thread-safe. Independent of queues and sessions.

A sampled row that leaves early is answered first. It then continues to the final exit as a separate shadow
request, in the same batches as other rows. It is never dropped to save time, and costs only the remaining
stages.
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
from serving.metrics.model_metrics import MonitorMetrics
from serving.monitor.agreement import Verdict
from serving.monitor.drift_alarms import DriftAlarms
from serving.monitor.point_watch import PointWatch, SampledRow
from serving.monitor.sampling import Sampler
from serving.repository.manifest import EXACT_POINT, Manifest, Thresholds

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class MonitorLimits:
    """The sampling and the alarm levels of one version's monitor."""

    shadow_share: float = 0.0
    """Probability that a row is sampled; 0 samples none."""
    max_missing_share: float = 0.2
    """Largest share of missing rows that raises no alarm, among the last sampled rows that left early."""
    on_broken: Literal["demote", "warn"] = "demote"
    """Action for a broken certificate: revoke the point, or only log it."""
    drift_rows: int = 1000
    drift_alarm: float = 0.1


@dataclass(frozen=True)
class Revocation:
    """A revocation by the monitor, with its evidence."""

    operating_point: str
    epsilon: float
    delta: float
    shadow_rows: int
    disagreements: int


@dataclass(frozen=True)
class PointState:
    """The current state of an operating point."""

    name: str
    in_force: str
    """The point whose thresholds apply."""
    thresholds: Thresholds
    revoked_by: RevokedBy | None
    watch: PointWatch | None
    """The test of its own thresholds; None if they disable every early exit."""


class Monitor:
    """The monitor of one served version."""

    def __init__(
        self,
        manifest: Manifest,
        points: PointsInForce,
        limits: MonitorLimits,
        metrics: MonitorMetrics,
        on_revoked: Callable[[Revocation], None],
    ) -> None:
        """Start without rows.

        on_revoked: called before the monitor revokes a point, with the monitor's lock held. It must
        record the revocation, return quickly and never raise.
        """
        self._points = points
        self._manifest = manifest
        self._limits = limits
        self._metrics = metrics
        self._on_revoked = on_revoked
        self._log_fields = {"model": manifest.name, "version": manifest.version}
        self._final_exit = len(manifest.stages) - 1
        self._full_depth = ExitRule((None,) * self._final_exit, self._final_exit, EXACT_POINT)
        self._lock = threading.RLock()
        self._sampler = Sampler(limits.shadow_share)
        self._sampled: dict[Request, tuple[PointWatch, dict[int, SampledRow]]] = {}
        """By unended request: the sampled rows that have not left early, by number."""
        self._watches = {
            name: self._new_watch(name) for name in manifest.operating_points if name in points.revocable
        }
        self._drift = DriftAlarms(
            manifest, self._watches, metrics, window_rows=limits.drift_rows, alarm=limits.drift_alarm
        )
        for name, point in manifest.operating_points.items():
            if point.certificate is not None:
                metrics.certificate(name, point.certificate.epsilon, point.certificate.delta)
        self._show_points()

    def sample(self, rows: int, rule: ExitRule) -> Sequence[int]:
        """Sample rows of a new request and return their numbers.

        Samples none if the rule is not that of a watched point, or has a cap before the final exit.
        """
        with self._lock:
            sampled = self._sampler.sample(rows)
        return sampled if sampled and self._watch_of(rule) is not None else ()

    def admitted(self, request: Request) -> None:
        """Add a request with sampled rows. Call this before the request can end."""
        watch = self._watch_of(request.rule)
        assert watch is not None, "rows are sampled only if their point is watched"
        with self._lock:
            rows = {number: watch.add(request.caller) for number in request.sampled_rows}
            self._sampled[request] = watch, rows

    def follow(self, request: Request, number: int, label: int) -> Request | None:
        """Return a shadow request for a sampled row that leaves early with this label.

        The reply of the shadow request compares both labels. Returns None if the row's request has ended.
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
        """Record ended requests, and the confidences of a batch's rows at exit 0."""
        with self._lock:
            for request, result in ended:
                watch = self._watch_of(request.rule)
                exits = result.exit_R.tolist() if isinstance(result, Answers) else []
                if watch is not None and not request.is_synthetic:
                    self._drift.add_exits(watch.name, exits)
                if request.sampled_rows:
                    self._settle(request, answered=isinstance(result, Answers))
            self._drift.add_confidences(first_exit)

    def _settle(self, request: Request, *, answered: bool) -> None:
        """Count the sampled rows of an ended request that did not leave early."""
        watch, rows = self._sampled.pop(request)
        for row in rows.values():
            if answered:
                watch.reached_final_exit(row)
            else:
                watch.lost(row)

    def apply_revocations(self, revoked_by: Callable[[str], RevokedBy | None]) -> None:
        """Revoke the points that were revoked elsewhere, and reinstate those that were reinstated.

        revoked_by: returns who revoked a point, by its name; None if it is not revoked. It must include
        this monitor's own revocations. They are recorded before they take effect, so this call never
        undoes them.
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
                    self._drift.restart(name)
                else:
                    self._points.revoke(name, by)
                self._show_points()
                event = "operating point reinstated" if by is None else "operating point revoked"
                in_force = self._points.in_force(name)
                _LOG.warning(event, **self._log_fields, operating_point=name, in_force=in_force, by=by)

    def states(self) -> Iterator[PointState]:
        """Yield the current state of each operating point and of its certificate."""
        for name in self._manifest.operating_points:
            yield PointState(
                name,
                self._points.in_force(name),
                self._points.thresholds(name),
                revoked_by=self._points.revoked.get(name),
                watch=self._watches.get(name),
            )

    def close(self) -> None:
        """Release the watches, which form a reference cycle with the monitor. No request may follow."""
        with self._lock:
            self._watches.clear()

    def _watch_of(self, rule: ExitRule) -> PointWatch | None:
        """Return the watch of the rule's point; None without one, or with a cap before the final exit."""
        return self._watches.get(rule.operating_point) if rule.max_exit == self._final_exit else None

    def _new_watch(self, name: str) -> PointWatch:
        return PointWatch(
            name,
            self._manifest.operating_points[name],
            self._metrics,
            on_verdict=self._act_on_verdict,
            max_missing_share=self._limits.max_missing_share,
        )

    def _act_on_verdict(self, watch: PointWatch) -> None:
        """Log or revoke after the verdict on a point changed; called with the lock held."""
        if self._watches.get(watch.name) is not watch or watch.name in self._points.revoked:
            return  # the point was reinstated or revoked in the meantime
        assert watch.test is not None, "only a test has a verdict"
        revocation = Revocation(
            operating_point=watch.name,
            epsilon=watch.test.epsilon,
            delta=watch.test.delta,
            shadow_rows=watch.test.rows,
            disagreements=watch.test.disagreements,
        )
        if watch.verdict is Verdict.SUSPECTED:
            _LOG.warning(
                "certificate suspected", **self._log_fields, **vars(revocation), caller=watch.test.suspect
            )
        elif watch.verdict is Verdict.HOLDS:
            _LOG.info("certificate no longer suspected", **self._log_fields, operating_point=watch.name)
        elif self._limits.on_broken == "warn":
            self._show_points()
            _LOG.error("certificate broken", **self._log_fields, **vars(revocation))
        else:
            self._on_revoked(revocation)  # before it takes effect, so that no revocation is lost
            in_force = self._points.revoke(watch.name, "monitor")
            self._show_points()
            _LOG.error("certificate revoked", **self._log_fields, **vars(revocation), in_force=in_force)

    def _show_points(self) -> None:
        for name in self._manifest.operating_points:
            watch = self._watches.get(name)
            broken = watch is not None and watch.verdict is Verdict.BROKEN
            holds = not broken and name not in self._points.revoked
            self._metrics.in_force(name, self._points.thresholds(name), holds=holds)


def _digest(request: Request, number: int) -> bytes:
    """Return a digest of one row's bytes in all inputs."""
    digest = hashlib.blake2b(digest_size=16)
    for array in request.inputs.values():
        digest.update(array[number].tobytes())
    return digest.digest()
