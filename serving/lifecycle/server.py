"""The server's life: load and warm up, serve, drain, stop.

The first SIGTERM or SIGINT starts the drain. Readiness turns off at once, and accepted calls finish. New
calls get UNAVAILABLE for a second, so that load balancers notice. A second signal forces the stop. SIGHUP
starts a rescan for new versions.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import structlog
from prometheus_client import CollectorRegistry

from serving import __version__
from serving.api.health import Health
from serving.api.inference import Inference
from serving.api.open_inference import OpenInference
from serving.api.places import side_places
from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, TRAINING_SERVICE
from serving.config import Config
from serving.console.standard_streams import discard_unwritten
from serving.engine.engine import Engine
from serving.engine.version import ServedVersion
from serving.errors import RepositoryError
from serving.frontend import grpcio
from serving.frontend.address import join
from serving.frontend.handlers import InferenceHandlers
from serving.http.application import make_application
from serving.http.port import HttpPort
from serving.http.status import StatusSource
from serving.lifecycle.gauges import show_installation, watch_load
from serving.lifecycle.grpc_port import GrpcPort
from serving.lifecycle.loading import VersionLoader
from serving.lifecycle.readiness import Phase, Readiness
from serving.lifecycle.rescans import Rescans
from serving.lifecycle.security_refresh import SecurityRefresh
from serving.lifecycle.signals import StopSignals
from serving.lifecycle.training_service import TrainingOffer, TrainingService
from serving.lifecycle.trial import Trials
from serving.metrics.instruments import Metrics
from serving.monitor.revocations import Revocations
from serving.repository.repository import ModelRepository
from serving.security.security import Security
from serving.stages.devices import DeviceName, choose_device
from serving.tracing.opening import open_tracer
from serving.waiting import first_of, off_loop

_LOG = structlog.get_logger(__name__)

UNAVAILABLE_SECONDS = 1.0
"""Time at the start of a drain in which new calls get UNAVAILABLE; gRPC alone would cancel them."""
JOBS_SHARE = 0.8
"""Share of the drain's time after which training jobs that still run are killed."""
CLOSE_SECONDS = 5.0
"""Longest time to close versions and the engine, so that a hanging stage cannot block the exit."""
LAST_WRITE_SECONDS = 0.5
"""Minimum time to write revocations, even after the drain's time is over."""


@dataclass(frozen=True)
class Address:
    """The address to listen on; port 0 chooses a free one."""

    host: str
    grpc_port: int
    metrics_port: int


class Server:
    """The server: serves a model repository over gRPC, and metrics over HTTP."""

    def __init__(
        self,
        model_repository: Path,
        address: Address,
        *,
        device: DeviceName = "auto",
        config: Config | None = None,
        poll_seconds: float | None = None,
        state_dir: Path | None = None,
        training: TrainingOffer | None = None,
        insecure: bool = False,
        dropped_log_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        """Set up the server; raise ConfigurationError if a device, folder or file is not available.

        training: where training jobs are stored; None disables training. insecure: whether training may be
        offered to other machines without tokens.
        """
        self._address = address
        self._config = config = config or Config()
        self._security = Security(config.security)
        self._refresh = SecurityRefresh(config.security.refresh_seconds, self._security.refresh)
        if training is not None and not insecure:
            self._security.check_training(address.host)
        self._signals = StopSignals()
        self._readiness = Readiness()
        self._registry = CollectorRegistry()
        self._metrics = Metrics(self._registry, dropped_log_lines)
        self._device = choose_device(device)
        self._tracer = open_tracer(config.tracing)
        self._revocations = Revocations(state_dir)
        self.engine = Engine(config.engine.workers or self._device.default_workers())
        self._trials = Trials(config.trial, config.engine.max_batch_size)
        loader = VersionLoader(config, self._device, self.engine, self._metrics, self._revocations)
        self.repository = ModelRepository[ServedVersion](
            model_repository,
            load=loader.load,
            close=self.engine.remove,
            also_serve={name: model.versions for name, model in config.models.items()},
            start_trial=self._trials.start if config.trial.enabled else None,
        )
        self.rescans = Rescans(self.repository, poll_seconds, self._after_rescan)
        self.training = TrainingService(
            training, model_repository, config.training, self._metrics, self.rescans.rescan
        )
        self.grpc = GrpcPort(address.host, address.grpc_port, config.server, self._security)
        watch_load(self._metrics.server, self.engine, self.rescans, self._revocations)
        self._health: Health
        self._inference: InferenceHandlers
        self._http: HttpPort

    @property
    def metrics_port(self) -> int:
        """The port of the metrics, after `start`."""
        return self._http.port

    async def run(self) -> int:
        """Serve until a signal stops the server; return the exit code."""
        self._signals.watch(on_hangup=self._reload)
        starting = asyncio.create_task(self.start())
        await first_of(starting, self._signals.stopping.wait())
        if not starting.done():
            self._trials.close()
            _LOG.info("stopped while loading")
            return 0
        await starting
        self._print_ready()
        await self._signals.stopping.wait()
        return await self.drain()

    def _reload(self) -> None:
        """Request a rescan, and read the files of `[security]` again."""
        self.rescans.request()
        self._refresh.refresh()

    def _print_ready(self) -> None:
        line = (
            f"ready grpc={join(self._address.host, self.grpc.port)} "
            f"metrics={join(self._address.host, self.metrics_port)} device={self._device.name} "
            f"front_end={self.grpc.front_end}"
        )
        try:
            print(line, flush=True)
        except OSError as error:  # a full disk or a closed pipe must not stop the server
            _LOG.warning("ready line not printed", error=str(error))
            discard_unwritten(sys.stdout)

    async def start(self) -> None:
        """Load and warm up all models, then listen; raise RepositoryError or ConfigurationError."""
        self._log_device()
        try:
            await self.rescans.load_first()
        except RepositoryError:
            self._trials.close()
            self.repository.close()
            raise
        if not self.repository.served():
            _LOG.warning("no model found; publish one, then send SIGHUP")
        address = self._address
        source = self._status_source()
        application = make_application(source, self._metrics)
        self._http = HttpPort(address.host, address.metrics_port, application, self._security.tls)
        self._refresh.add(self._http.refresh)
        self._revocations.start(self._apply_revocations)
        await self._listen(lambda: source.state() == "ready")
        self._readiness.phase = Phase.READY
        self._health.update()
        self.rescans.start()
        if self._security.is_configured:
            self._refresh.start()

    async def _listen(self, is_ready: Callable[[], bool]) -> None:
        """Open the gRPC port and start the engine. is_ready: whether the whole server is ready."""
        settings, caller_metadata = self._config.server, self._config.monitor.caller_metadata
        access_share = self._config.log.access_share
        inference = Inference(
            self.repository,
            self.engine,
            self._readiness,
            self._metrics,
            access_share,
            # A token may allow inference without the calls that list models.
            list_models=not self._security.has_tokens,
            tracer=self._tracer,
        )
        described = OpenInference(
            self.repository,
            is_ready,
            version=__version__,
            device=self._device.name,
            front_end=self.grpc.front_end,
        )
        wake = self.engine.wake
        self._inference = InferenceHandlers(inference, wake, self._readiness, settings, caller_metadata)
        places, count = side_places(), self._metrics.server.count_rpc
        handlers = {**described.handlers(places, count), **self._inference.handlers()}
        training = self.training.open(places)
        services = [INFERENCE_SERVICE, *([TRAINING_SERVICE] if self.training.offered else [])]
        self._health = Health(self.repository, self._readiness, is_ready, services)
        server = grpcio.make_server(
            settings,
            [
                grpc.method_handlers_generic_handler(INFERENCE_SERVICE, handlers),
                training,
                self._health.generic_handler(places, count),
            ],
            (*services, HEALTH_SERVICE),
            places,
            count,
            self._security.interceptors(self._metrics.server.authentication_failures),
        )
        await self.grpc.open(server, inference.begin, wake, caller_metadata)
        self.engine.start(self.grpc.native)

    def _after_rescan(self) -> None:
        """Apply revocations to new versions, and report the health of models."""
        self._revocations.refresh()
        self._health.update()

    def _status_source(self) -> StatusSource:
        return StatusSource(
            repository=self.repository,
            readiness=self._readiness,
            registry=self._registry,
            alive=lambda: self.engine.alive,
            device=self._device.name,
            front_end=self.grpc.front_end,
            allow_empty=self._config.server.allow_empty,
            jobs=self.training.latest,
        )

    async def drain(self) -> int:
        """Refuse new calls, finish accepted ones, and stop.

        Returns 0 if all calls finished in time and all revocations were written, otherwise 1.
        """
        forced, drain_seconds = self._signals.forced, self._config.server.drain_seconds
        _LOG.info("draining", seconds=drain_seconds)
        self._readiness.phase = Phase.DRAINING
        self._inference.drain()
        self.engine.refuse_waiting(self._readiness.refusal())
        self._health.update()
        self.rescans.stop()
        self._refresh.stop()
        self._trials.close()
        deadline = time.monotonic() + drain_seconds
        ends = asyncio.get_running_loop().create_task(asyncio.sleep(drain_seconds))
        interrupting = asyncio.create_task(self.training.close(JOBS_SHARE * drain_seconds))
        await first_of(forced.wait(), asyncio.sleep(UNAVAILABLE_SECONDS), ends)
        idle = asyncio.create_task(off_loop(self.engine.wait_idle))
        await first_of(forced.wait(), idle, ends)
        await first_of(forced.wait(), interrupting)
        finished = idle.done() and not forced.is_set()
        await self.grpc.close(flush=finished, forced=forced)
        closing = asyncio.create_task(off_loop(self._close))
        await first_of(closing, forced.wait(), asyncio.sleep(CLOSE_SECONDS))
        kept = await self._close_revocations(deadline)
        self._http.close()
        ends.cancel()
        finished = finished and closing.done() and kept
        _LOG.info("stopped", finished=finished)
        return 0 if finished else 1

    def _close(self) -> None:
        """Close every version and the engine, and export the last spans. Blocks."""
        self.grpc.remove_socket()
        self.repository.close()
        self.engine.close()
        if self._tracer is not None:
            self._tracer.close()

    async def _close_revocations(self, deadline: float) -> bool:
        """Write pending revocations by the end of the drain; return False and log it if some are lost."""
        seconds = max(LAST_WRITE_SECONDS, deadline - time.monotonic())
        await first_of(off_loop(partial(self._revocations.close, seconds)), self._signals.forced.wait())
        unwritten = self._revocations.unwritten()
        if unwritten:
            _LOG.error("revocations lost: not written before the stop", operating_points=unwritten)
        return not unwritten

    def _apply_revocations(self) -> None:
        """Revoke and reinstate points of the served versions. Called in the thread of `Revocations`."""
        for name, number, version in self.repository.served():
            version.monitor.apply_revocations(partial(self._revocations.revoked_by, name, number))

    def _log_device(self) -> None:
        show_installation(self._metrics.server, self._device, self.grpc.front_end)
        _LOG.info("device chosen", device=self._device.name, provider=self._device.provider)
