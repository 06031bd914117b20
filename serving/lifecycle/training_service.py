"""Opens and closes the training jobs of a server, or refuses training with a reason."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import structlog

from serving.api.places import Places
from serving.api.training import Training, refusing_handler
from serving.config import TrainingSettings
from serving.jobs.job import Job
from serving.jobs.jobs import Jobs
from serving.jobs.program import Program
from serving.metrics.instruments import Metrics

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class TrainingOffer:
    """The folder of training jobs, and the program that runs them."""

    training_dir: Path
    program: Program = field(default_factory=Program)


class TrainingService:
    """The jobs behind offramp.v1.Training, if training is offered."""

    def __init__(
        self,
        offer: TrainingOffer | None,
        model_repository: Path,
        settings: TrainingSettings,
        metrics: Metrics,
        rescan: Callable[[], Awaitable[None]],
    ) -> None:
        """Set up without opening anything.

        offer: None refuses training. rescan: makes the server load new versions.
        """
        self._offer = offer
        self._model_repository = model_repository
        self._settings = settings
        self._metrics = metrics
        self._rescan = rescan
        self._jobs: Jobs | None = None

    @property
    def offered(self) -> bool:
        """Whether jobs can be started."""
        return self._jobs is not None

    def latest(self) -> list[Job]:
        """Return the jobs, the latest first; none if training is not offered."""
        return [] if self._jobs is None else self._jobs.table.latest()

    def open(self, places: Places) -> grpc.GenericRpcHandler:
        """Open the jobs and return the handlers of the service.

        places: the limit on open streams. Raises ConfigurationError if the training folder is not available.
        """
        count = self._metrics.server.count_rpc
        if self._offer is None:
            return refusing_handler("start it with --enable-training", count)
        reason = self._offer.program.unavailable_reason()
        if reason is not None:
            _LOG.warning("training not offered", reason=reason)
            return refusing_handler(reason, count)
        self._jobs = Jobs(
            self._offer.training_dir,
            self._model_repository,
            self._settings,
            self._metrics,
            program=self._offer.program,
            rescan=self._rescan,
        )
        return Training(self._jobs).generic_handler(places, count)

    async def close(self, seconds: float) -> None:
        """Interrupt the jobs; kill processes that take longer than `seconds`."""
        if self._jobs is not None:
            await self._jobs.close(seconds)
