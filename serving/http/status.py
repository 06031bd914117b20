"""What the page shows: the server's state, and each served version's points, exits, stages and drift."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from serving import __version__
from serving.engine.version import ServedVersion
from serving.http.figures import Figures, shares
from serving.jobs.job import Job
from serving.lifecycle.readiness import Phase, Readiness
from serving.monitor.agreement import Verdict
from serving.monitor.monitor import PointState
from serving.repository.manifest import OperatingPoint
from serving.repository.repository import IndexEntry, ModelRepository


@dataclass(frozen=True)
class PointView:
    """One operating point."""

    name: str
    in_force: str
    """The point whose thresholds apply; another name than `name` after a revocation."""
    state: str
    epsilon: float | None
    delta: float | None
    risk: str
    agreed: int
    differed: int
    missing: int
    evidence: float | None
    limit: float | None
    """The evidence at which the certificate counts as broken: 1 / delta."""
    drift: float
    drifted: bool
    expected_cost: float
    """Share of the full depth's multiply-adds, from the manifest."""


@dataclass(frozen=True)
class StageView:
    """One stage: its runs, and the rows that left at its exit."""

    number: int
    runs: int
    mean_batch_rows: float | None
    p50_seconds: float | None
    p99_seconds: float | None
    queue_p99_seconds: float | None
    waiting: int
    exit_share: float
    """Share of all answered rows that left here."""
    expected_share: float
    """The same share at the default operating point, from the manifest."""


@dataclass(frozen=True)
class VersionView:
    """One served version."""

    name: str
    version: int
    ready: bool
    default_point: str
    answered: int
    failed: int
    rows: int
    saved_share: float | None
    """Share of the full depth's multiply-adds that answered rows did not need; None before any row."""
    p50_seconds: float | None
    p99_seconds: float | None
    confidence_drift: float
    drifted: bool
    points: tuple[PointView, ...]
    stages: tuple[StageView, ...]


@dataclass(frozen=True)
class Status:
    """The whole page."""

    state: str
    server_version: str
    device: str
    front_end: str
    uptime_seconds: float
    in_flight: int
    versions: tuple[VersionView, ...]
    not_served: tuple[IndexEntry, ...]
    """Versions that were refused, are on trial or were rolled back."""
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class StatusSource:
    """The parts of a server that its HTTP port reads."""

    repository: ModelRepository[ServedVersion]
    readiness: Readiness
    registry: CollectorRegistry
    alive: Callable[[], bool]
    """Whether the engine's threads run."""
    device: str
    front_end: str
    allow_empty: bool
    jobs: Callable[[], Sequence[Job]]
    started: float = field(default_factory=time.monotonic)

    def state(self) -> str:
        """Return "ready", or why the server is not: loading, draining, empty or broken."""
        phase = self.readiness.phase
        if phase is not Phase.READY:
            return "loading" if phase is Phase.STARTING else "draining"
        if not self.alive():
            return "broken"
        return "ready" if self.repository.served() or self.allow_empty else "empty"

    def read(self) -> Status:
        """Return the current status."""
        figures = Figures(self.registry.collect())
        return Status(
            state=self.state(),
            server_version=__version__,
            device=self.device,
            front_end=self.front_end,
            uptime_seconds=time.monotonic() - self.started,
            in_flight=int(figures.sum("offramp_requests_in_flight")),
            versions=tuple(_version(loaded, figures) for _, _, loaded in self.repository.served()),
            not_served=tuple(_not_served(self.repository)),
            jobs=tuple(self.jobs()),
        )


def _not_served(repository: ModelRepository[ServedVersion]) -> Iterator[IndexEntry]:
    """Yield the versions that should be served and are not; older ones that nobody asked for are left out."""
    return (entry for entry in repository.index() if not entry.ready and entry.reason != "not served")


def _version(loaded: ServedVersion, figures: Figures) -> VersionView:
    manifest = loaded.manifest
    labels = {"model": manifest.name, "version": str(manifest.version)}
    latency = figures.histogram("offramp_request_seconds", outcome="ok", **labels)
    ended = figures.by("offramp_requests_total", "outcome", **labels)
    spent = figures.sum("offramp_multiply_adds_total", **labels)
    saved = figures.sum("offramp_multiply_adds_saved_total", **labels)
    return VersionView(
        name=manifest.name,
        version=manifest.version,
        ready=loaded.ready,
        default_point=manifest.default_operating_point,
        answered=int(ended.get("ok", 0)),
        failed=int(sum(ended.values()) - ended.get("ok", 0)),
        rows=int(figures.sum("offramp_rows_total", outcome="ok", **labels)),
        saved_share=saved / (spent + saved) if spent + saved else None,
        p50_seconds=latency.quantile(0.5),
        p99_seconds=latency.quantile(0.99),
        confidence_drift=figures.sum("offramp_confidence_drift", **labels),
        drifted=bool(figures.sum("offramp_drift_alarm", **labels)),
        points=tuple(
            _point(state, manifest.operating_points[state.name], figures, labels)
            for state in loaded.point_states()
        ),
        stages=tuple(_stages(loaded, figures, labels)),
    )


def _point(
    state: PointState, published: OperatingPoint, figures: Figures, labels: dict[str, str]
) -> PointView:
    certificate, watch = published.certificate, state.watch
    test = None if watch is None else watch.test
    return PointView(
        name=state.name,
        in_force=state.in_force,
        state=_state_in_words(state),
        epsilon=None if certificate is None else certificate.epsilon,
        delta=None if certificate is None else certificate.delta,
        risk="" if certificate is None else certificate.risk.value,
        agreed=0 if watch is None else watch.agreed,
        differed=0 if watch is None else watch.differed,
        missing=0 if watch is None else watch.missing,
        evidence=None if test is None else test.evidence,
        limit=None if test is None else 1 / test.delta,
        drift=figures.sum("offramp_exit_drift", operating_point=state.name, **labels),
        drifted=bool(figures.sum("offramp_drift_alarm", operating_point=state.name, **labels)),
        expected_cost=published.multiply_adds_share,
    )


def _state_in_words(state: PointState) -> str:
    if state.revoked_by is not None:
        return f"revoked by {state.revoked_by}"
    if state.watch is None:
        return "full depth"
    if state.watch.test is None:
        return "no certificate to test"
    words = {Verdict.HOLDS: "holds", Verdict.SUSPECTED: "suspected", Verdict.BROKEN: "broken"}
    return words[state.watch.verdict]


def _stages(loaded: ServedVersion, figures: Figures, labels: dict[str, str]) -> Iterator[StageView]:
    manifest = loaded.manifest
    exited = figures.by("offramp_rows_exited_total", "exit", **labels)
    exit_shares = shares([exited.get(str(number), 0.0) for number in range(len(manifest.stages))])
    expected = manifest.operating_points[manifest.default_operating_point].exit_shares
    for number, exit_share in enumerate(exit_shares):
        stage = {**labels, "stage": str(number)}
        seconds = figures.histogram("offramp_stage_seconds", **stage)
        yield StageView(
            number=number,
            runs=int(seconds.count),
            mean_batch_rows=figures.histogram("offramp_batch_rows", **stage).mean,
            p50_seconds=seconds.quantile(0.5),
            p99_seconds=seconds.quantile(0.99),
            queue_p99_seconds=figures.histogram("offramp_queue_seconds", **stage).quantile(0.99),
            waiting=int(figures.sum("offramp_rows_waiting", **stage)),
            exit_share=exit_share,
            expected_share=expected[number],
        )
