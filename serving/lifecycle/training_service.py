"""Whether a server offers training, and the life of its jobs where it does."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import structlog

from serving.api.places import Places
from serving.api.training import Training, refusing_handler
from serving.config import TrainingSettings
from serving.frontend.address import is_loopback
from serving.jobs.jobs import Jobs
from serving.jobs.program import Program
from serving.metrics.instruments import Metrics

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class TrainingOffer:
    """Where training jobs lie, and the program that runs them."""

    training_dir: Path
    program: Program = field(default_factory=Program)


class TrainingService:
    """The jobs behind offramp.v1.Training, or the reason why there are none."""

    def __init__(
        self,
        offer: TrainingOffer | None,
        model_repository: Path,
        settings: TrainingSettings,
        metrics: Metrics,
        take_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._offer = offer
        self._model_repository = model_repository
        self._settings = settings
        self._metrics = metrics
        self._take_up = take_up
        self._jobs: Jobs | None = None

    @property
    def offered(self) -> bool:
        """Whether jobs can be started."""
        return self._jobs is not None

    def open(self, host: str, places: Places) -> grpc.GenericRpcHandler:
        """Open the jobs, if any are offered; raise ConfigurationError where their folder can't be had.

        host: where the server listens; other than loopback, one line warns of who may train. places: those
        that the streams of jobs take.
        """
        if self._offer is None:
            return refusing_handler("start it with --enable-training")
        missing = self._offer.program.why_not()
        if missing is not None:
            _LOG.warning("training not offered", reason=missing)
            return refusing_handler(missing)
        if not is_loopback(host):
            _LOG.warning("training is exposed: whoever reaches this address may start jobs", host=host)
        self._jobs = Jobs(
            self._offer.training_dir,
            self._model_repository,
            self._settings,
            self._metrics,
            program=self._offer.program,
            take_up=self._take_up,
        )
        return Training(self._jobs).generic_handler(places)

    async def close(self, seconds: float) -> None:
        """Interrupt the jobs, within so many seconds."""
        if self._jobs is not None:
            await self._jobs.close(seconds)
