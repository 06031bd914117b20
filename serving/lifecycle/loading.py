"""Loads a published version into the engine: its sessions, metrics, monitor and revocations."""

from dataclasses import dataclass
from functools import partial

import structlog

from serving.config import Config
from serving.engine.engine import Engine
from serving.engine.version import ServedVersion, VersionLimits
from serving.metrics.instruments import Metrics
from serving.monitor.monitor import MonitorLimits
from serving.monitor.revocations import Revocations
from serving.repository.repository import PublishedVersion
from serving.stages.devices import Device

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class VersionLoader:
    """Loads versions with the settings of one server."""

    config: Config
    device: Device
    engine: Engine
    metrics: Metrics
    revocations: Revocations

    def load(self, version: PublishedVersion) -> ServedVersion:
        """Load and warm up a version, and add it to the engine. Blocks."""
        manifest = version.manifest
        name, number = manifest.name, manifest.version
        metrics = self.metrics.for_model(name, number, len(manifest.stages))
        revoked_by = partial(self.revocations.revoked_by, name, number)
        try:
            loaded = ServedVersion(
                version,
                self.device,
                self._limits(),
                metrics,
                permits=self.engine.permits,
                watch=MonitorLimits(**self.config.monitor.model_dump(exclude={"caller_metadata"})),
                revoked={point: by for point in manifest.operating_points if (by := revoked_by(point))},
                on_revoked=partial(self.revocations.add, name, number),
            )
        except BaseException:
            metrics.forget()
            raise
        self.engine.add(loaded)
        _LOG.info("version loaded", model=name, version=number, device=self.device.name)
        return loaded

    def _limits(self) -> VersionLimits:
        engine = self.config.engine
        # On a GPU a batch uses one host thread for any number of rows.
        idle_threads = 1
        if self.device.memory == "cpu":
            idle_threads = engine.idle_intra_op_threads or self.device.default_workers()
        return VersionLimits(
            max_batch_size=engine.max_batch_size,
            max_queue_size=engine.max_queue_size,
            idle_threads=idle_threads,
        )
