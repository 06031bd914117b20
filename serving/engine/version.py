"""One served version: its stages, its operating points in force, its monitor and its statistics."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import structlog

from serving.engine.decision import Decision, decide_batch
from serving.engine.execution import Execution, execute
from serving.engine.observation import Observation
from serving.engine.queues import StageQueues
from serving.engine.request import Batch, Request
from serving.engine.scheduler import Lane
from serving.errors import DeadlineExpired
from serving.exits.points import PointsInForce, RevokedBy
from serving.metrics.model_metrics import ModelMetrics
from serving.monitor.monitor import Monitor, MonitorLimits, PointState, Revocation
from serving.repository.repository import PublishedVersion
from serving.stages.blocks import open_stages
from serving.stages.devices import Device

MIN_BLOCKS = 8
"""Minimum number of blocks of each stage but the last. Where large batches are cheaper, survivors of several
batches wait there to be merged."""

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class VersionLimits:
    """Limits on the rows and threads of one version."""

    max_batch_size: int = 64
    max_queue_size: int = 1024
    idle_threads: int = 1
    """Intra-op threads of a batch that runs while the engine is otherwise idle."""


class ServedVersion:
    """A version that is served: runs its batches and records their results."""

    def __init__(
        self,
        version: PublishedVersion,
        device: Device,
        limits: VersionLimits,
        metrics: ModelMetrics,
        *,
        permits: int,
        watch: MonitorLimits | None = None,
        revoked: Mapping[str, RevokedBy] | None = None,
        on_revoked: Callable[[Revocation], None] = lambda _: None,
    ) -> None:
        """Open and warm up the stages; raise RepositoryError if they don't match the manifest.

        permits: number of batches that may run at once. revoked: operating points that are already
        revoked, and by whom. on_revoked: called with each further revocation by the monitor.
        """
        self.manifest = version.manifest
        self.max_batch_size = limits.max_batch_size
        blocks = [max(MIN_BLOCKS, 2 * permits)] * (len(self.manifest.stages) - 1) + [permits]
        self._runner, self.costs, self._blocks = open_stages(
            version,
            device,
            max_batch_size=limits.max_batch_size,
            blocks=blocks,
            idle_threads=limits.idle_threads,
        )
        self.points = PointsInForce(self.manifest, revoked)
        self.monitor = Monitor(
            self.manifest, self.points, watch or MonitorLimits(), metrics.monitor, on_revoked
        )
        self.observation = Observation(self.manifest, metrics, self.monitor)
        queues = StageQueues(self.costs, blocks)
        self.lane = lane = Lane(self, queues, limits.max_queue_size)
        metrics.watch_waiting(lambda stage: queues.waiting[stage])
        metrics.watch_admission(
            ready=lambda: lane.open,
            rows_held=lambda: queues.rows_held,
            capacity_rows=limits.max_queue_size,
        )

    @property
    def ready(self) -> bool:
        """Whether the version admits requests."""
        return self.lane.open

    @property
    def rows_held(self) -> int:
        """Number of rows that are admitted and neither answered nor dropped."""
        return self.lane.queues.rows_held

    def execute(self, batch: Batch) -> Execution:
        """Run a batch through its stages. If every row fails, run a blank row to check the stages."""
        blocks = [self._blocks[stage][block] for stage, block in zip(batch.stages, batch.blocks, strict=True)]
        execution = execute(batch, blocks)
        batch.record_stage_runs(execution.times)
        if batch.stage == 0:
            for group in batch.groups:
                group.request.start(execution.times[0])
        if len(execution.failures) == batch.rows:
            self._probe(batch.stage)
        return execution

    def decide(self, batch: Batch, execution: Execution) -> Decision:
        """Decide which rows leave the batch, and which requests end with it."""
        temperature = self.manifest.exits[batch.exit].calibration_temperature
        final = batch.exit == len(self.manifest.stages) - 1
        return decide_batch(batch, execution, temperature, self.monitor, final=final)

    def record(self, batch: Batch, execution: Execution, decision: Decision) -> None:
        """Record a finished batch. An error here is only logged: the answers were already sent."""
        try:
            self.observation.finished(batch, execution, decision)
        except Exception as error:
            _LOG.error("batch not recorded", model=self.manifest.name, exc_info=error)

    def expire(self, request: Request) -> None:
        """End a request whose deadline has passed."""
        self.end(request, DeadlineExpired("the deadline passed before the last row was answered"))

    def end(self, request: Request, error: Exception) -> None:
        """End a request with an error and record it, unless it had already ended."""
        if request.close(error) and not request.is_shadow:
            self.observation.dropped(request, error)

    def point_states(self) -> Iterator[PointState]:
        """Yield the current state of each operating point and of its certificate."""
        return self.monitor.states()

    def close(self) -> None:
        """Free sessions and slabs at once, even if the version is still referenced. No batch may run."""
        self._blocks.clear()
        self._runner.close()
        self.monitor.close()
        self.observation.close()

    def _probe(self, stage: int) -> None:
        try:
            self._runner.probe()
        except Exception as error:
            self.lane.open = False
            _LOG.error("model broken", model=self.manifest.name, stage=stage, exc_info=error)
