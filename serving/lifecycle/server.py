"""The server's life: load and warm up, serve, drain, stop.

The first SIGTERM or SIGINT drains. Readiness turns off at once, new calls get UNAVAILABLE for a second so
that load balancers notice, and accepted calls finish. A second signal forces the stop. SIGHUP starts a rescan
for new versions; so do an optional timer and the end of each trial. No rescan waits for a trial.
"""

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2
from prometheus_client import CollectorRegistry

from serving import __version__
from serving.api.inference import Inference
from serving.api.open_inference import OpenInference
from serving.api.places import side_places
from serving.api.wire import INFERENCE_SERVICE, TRAINING_SERVICE
from serving.config import Config
from serving.console.standard_streams import discard_unwritten
from serving.engine.engine import Engine
from serving.engine.version import ServedVersion, VersionLimits
from serving.errors import ConfigurationError, RepositoryError
from serving.frontend import grpcio
from serving.frontend.address import is_loopback, join
from serving.frontend.connections import end_connections
from serving.frontend.handlers import InferenceHandlers
from serving.frontend.native import NativeFrontEnd, is_installed
from serving.lifecycle.readiness import Phase, Readiness
from serving.lifecycle.training_service import TrainingOffer, TrainingService
from serving.lifecycle.trial import Trials
from serving.metrics.instruments import Metrics
from serving.metrics.scrapes import Scrapes, listen_for_scrapes
from serving.monitor.monitor import MonitorLimits
from serving.monitor.revocations import Revocations
from serving.repository.repository import ModelRepository, PublishedVersion
from serving.stages.devices import DeviceName, choose_device
from serving.waiting import done, first_of, off_loop

_LOG = structlog.get_logger(__name__)

UNAVAILABLE_SECONDS = 1.0
"""Time at the start of a drain in which new calls get UNAVAILABLE; gRPC alone would cancel them."""
JOBS_SHARE = 0.8
"""Share of the drain that training jobs have to interrupt themselves before they are killed."""
CLOSE_SECONDS = 5.0
"""Longest time to close the front end, and then the engine, so that a hanging stage cannot block the exit."""
SETTLE_SECONDS = 0.2
"""Time for the last answers to leave after the engine became idle."""
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
        dropped_log_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        """Set up the server; raise ConfigurationError if the device or the state folder is not available.

        training: where training jobs are stored; None disables training.
        """
        self._address = address
        self._config = config or Config()
        self._poll_seconds = poll_seconds
        self._readiness = Readiness()
        self._registry = CollectorRegistry()
        self._metrics = Metrics(self._registry, dropped_log_lines)
        self._device = choose_device(device)
        self._revocations = Revocations(state_dir)
        self._metrics.revocations_unwritten.set_function(lambda: len(self._revocations.unwritten()))
        self._training = TrainingService(
            training, model_repository, self._config.training, self._metrics, self.rescan
        )
        engine = self._config.engine
        self._engine = Engine(engine.workers or self._device.default_workers())
        self._metrics.requests_in_flight.set_function(lambda: self._engine.requests_in_flight)
        self._trials = Trials(self._config.trial, engine.max_batch_size)
        self._repository = ModelRepository[ServedVersion](
            model_repository,
            load=self._load,
            close=self._engine.remove,
            also_serve={name: model.versions for name, model in self._config.models.items()},
            start_trial=self._trials.start if self._config.trial.enabled else None,
        )
        self.front_end = self._choose_front_end()
        self._health = health.aio.HealthServicer()
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._rescan_requested = asyncio.Event()
        self._rescanner: asyncio.Task[None] | None = None
        self._refused: set[str] = set()
        self._grpc: grpc.aio.Server
        self._inference: InferenceHandlers
        self._native: NativeFrontEnd | None = None
        self._socket_folder: Path | None = None
        self._scrapes: Scrapes
        self.grpc_port = 0
        self.metrics_port = 0

    async def run(self) -> int:
        """Serve until a signal stops the server; return the exit code."""
        self._watch_signals()
        starting = asyncio.create_task(self.start())
        await first_of(starting, self._stopping.wait())
        if not starting.done():
            self._trials.close()
            _LOG.info("stopped while loading")
            return 0
        await starting
        self._print_ready()
        await self._stopping.wait()
        return await self.drain()

    def _print_ready(self) -> None:
        line = (
            f"ready grpc={join(self._address.host, self.grpc_port)} "
            f"metrics={join(self._address.host, self.metrics_port)} device={self._device.name} "
            f"front_end={self.front_end}"
        )
        try:
            print(line, flush=True)
        except OSError as error:  # a full disk or a closed pipe must not stop the server
            _LOG.warning("ready line not printed", error=str(error))
            discard_unwritten(sys.stdout)

    async def start(self) -> None:
        """Load and warm up all models, then listen; raise RepositoryError or ConfigurationError."""
        self._log_device()
        refused = await off_loop(self._repository.rescan)
        while self._repository.on_trial and not refused:
            await first_of(*self._pending_trials())
            refused = await off_loop(self._repository.rescan)
        if refused:
            self._trials.close()
            self._repository.close()
            raise refused[0]
        if not self._repository.served():
            _LOG.warning("no model found; publish one, then send SIGHUP")
        address = self._address
        self._scrapes = listen_for_scrapes(address.host, address.metrics_port, self._registry, self._metrics)
        self.metrics_port = self._scrapes.port
        self._revocations.start(self._apply_revocations)
        services = await self._listen()
        self._readiness.phase = Phase.READY
        for service in ("", *services):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self._rescanner = asyncio.create_task(self._rescan_repeatedly())

    async def _listen(self) -> list[str]:
        """Open the gRPC port, start the engine, and return the names of the services."""
        host, port, settings = self._address.host, self._address.grpc_port, self._config.server
        caller_metadata = self._config.monitor.caller_metadata
        inference = Inference(self._repository, self._engine, self._readiness, self._metrics)
        described = OpenInference(
            self._repository,
            self._readiness,
            self._engine,
            version=__version__,
            device=self._device.name,
            front_end=self.front_end,
        )
        self._inference = InferenceHandlers(
            inference, self._engine.wake, self._readiness, settings, caller_metadata
        )
        places = side_places()
        handlers = {**described.handlers(places), **self._inference.handlers()}
        training = self._training.open(host, places)
        services = [INFERENCE_SERVICE, *([TRAINING_SERVICE] if self._training.offered else [])]
        self._grpc = grpcio.make_server(
            settings,
            [grpc.method_handlers_generic_handler(INFERENCE_SERVICE, handlers), training],
            self._health,
            services,
            places,
        )
        if self.front_end == "native":
            self._socket_folder = Path(tempfile.mkdtemp(prefix="offramp-"))
            fallback = str(self._socket_folder / "fallback.sock")
            self._grpc.add_insecure_port(f"unix:{fallback}")
            await self._grpc.start()
            try:
                self._native = NativeFrontEnd(
                    host, port, fallback, settings, inference.begin, self._engine.wake, caller_metadata
                )
            except ConfigurationError:
                shutil.rmtree(self._socket_folder)
                raise
            self.grpc_port = self._native.port
        else:
            self.grpc_port = grpcio.listen(self._grpc, host, port)
            await self._grpc.start()
        self._engine.start(self._native)
        return services

    async def drain(self) -> int:
        """Refuse new calls, finish accepted ones, and stop.

        Returns 0 if all calls finished in time and all revocations were written, otherwise 1.
        """
        _LOG.info("draining", seconds=self._config.server.drain_seconds)
        self._readiness.phase = Phase.DRAINING
        self._inference.drain()
        self._engine.refuse_waiting(self._readiness.refusal())
        await self._health.enter_graceful_shutdown()
        if self._rescanner is not None:
            self._rescanner.cancel()
        self._trials.close()
        drain_seconds = self._config.server.drain_seconds
        deadline = time.monotonic() + drain_seconds
        ends = asyncio.get_running_loop().create_task(asyncio.sleep(drain_seconds))
        interrupting = asyncio.create_task(self._training.close(JOBS_SHARE * drain_seconds))
        await first_of(self._forced.wait(), asyncio.sleep(UNAVAILABLE_SECONDS), ends)
        idle = asyncio.create_task(off_loop(self._engine.wait_idle))
        await first_of(self._forced.wait(), idle, ends)
        await first_of(self._forced.wait(), interrupting)
        finished = idle.done() and not self._forced.is_set()
        await self._end_calls(flush=finished)
        closing = asyncio.create_task(off_loop(self._close))
        await first_of(closing, self._forced.wait(), asyncio.sleep(CLOSE_SECONDS))
        kept = await self._close_revocations(deadline)
        self._scrapes.close()
        ends.cancel()
        finished = finished and closing.done() and kept
        _LOG.info("stopped", finished=finished)
        return 0 if finished else 1

    async def _end_calls(self, *, flush: bool) -> None:
        """End every connection and stop the gRPC servers; with `flush`, wait for the last answers first.

        Clients see UNAVAILABLE for calls that arrive last, and for health watches.
        """
        if self._native is not None:
            closing = off_loop(partial(self._native.close, flush=flush))
            await first_of(closing, self._forced.wait(), asyncio.sleep(CLOSE_SECONDS))
        else:
            if flush:
                await first_of(self._forced.wait(), asyncio.sleep(SETTLE_SECONDS))
            end_connections(self.grpc_port)
        await self._grpc.stop(grace=None)

    def _close(self) -> None:
        """Close every version and the engine. Blocks."""
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
        self._repository.close()
        self._engine.close()

    async def _close_revocations(self, deadline: float) -> bool:
        """Write pending revocations by the end of the drain; return False and log it if some are lost."""
        seconds = max(LAST_WRITE_SECONDS, deadline - time.monotonic())
        await first_of(off_loop(partial(self._revocations.close, seconds)), self._forced.wait())
        unwritten = self._revocations.unwritten()
        if unwritten:
            _LOG.error("revocations are lost at the end", operating_points=unwritten)
        return not unwritten

    async def rescan(self) -> None:
        """Load new versions, and wait for those on trial."""
        await self._rescan()
        while self._repository.on_trial:
            await first_of(*self._pending_trials())
            await self._rescan()

    async def _rescan_repeatedly(self) -> None:
        """Load new versions on SIGHUP, at the end of each trial and, if configured, at intervals."""
        while True:
            interval = [] if self._poll_seconds is None else [asyncio.sleep(self._poll_seconds)]
            await first_of(self._rescan_requested.wait(), *interval, *self._pending_trials())
            self._rescan_requested.clear()
            await self._rescan()

    def _pending_trials(self) -> list[Coroutine[None, None, None]]:
        """Return a coroutine for each trial that was pending at the last rescan; it waits for the result."""
        return [done(result) for result in self._repository.on_trial]

    async def _rescan(self) -> None:
        """Load new versions. A refused one is logged in one line, and the old one keeps serving."""
        before = self._served()
        try:
            refused = {str(error) for error in await off_loop(self._repository.rescan)}
        except RepositoryError as error:  # the folder itself is gone or unreadable
            refused = {str(error)}
        except Exception:
            _LOG.exception("rescan failed")
            return
        for refusal in sorted(refused - self._refused):  # once: a timer would repeat it at each rescan
            _LOG.error("version refused", error=refusal)
        self._refused = refused
        self._revocations.refresh()
        after = self._served()
        if after != before:
            _LOG.info("versions changed", added=sorted(after - before), removed=sorted(before - after))

    def _apply_revocations(self) -> None:
        """Revoke and reinstate points of the served versions. Called in the thread of `Revocations`."""
        for name, number, version in self._repository.served():
            version.monitor.apply_revocations(partial(self._revocations.revoked_by, name, number))

    def _served(self) -> set[tuple[str, int]]:
        return {(name, version) for name, version, _ in self._repository.served()}

    def _load(self, version: PublishedVersion) -> ServedVersion:
        engine = self._config.engine
        manifest = version.manifest
        # On a GPU a batch uses one host thread for any number of rows.
        idle_threads = 1
        if self._device.memory == "cpu":
            idle_threads = engine.idle_intra_op_threads or self._device.default_workers()
        metrics = self._metrics.for_model(manifest.name, manifest.version, len(manifest.stages))
        try:
            loaded = ServedVersion(
                version,
                self._device,
                VersionLimits(
                    max_batch_size=engine.max_batch_size,
                    max_queue_size=engine.max_queue_size,
                    idle_threads=idle_threads,
                ),
                metrics,
                permits=self._engine.permits,
                watch=MonitorLimits(**self._config.monitor.model_dump(exclude={"caller_metadata"})),
                revoked={
                    point: by
                    for point in manifest.operating_points
                    if (by := self._revocations.revoked_by(manifest.name, manifest.version, point))
                },
                on_revoked=partial(self._revocations.add, manifest.name, manifest.version),
            )
        except BaseException:
            metrics.forget()
            raise
        self._engine.add(loaded)
        _LOG.info("version loaded", model=manifest.name, version=manifest.version, device=self._device.name)
        return loaded

    def _choose_front_end(self) -> str:
        """Return the front end to use; warn if the native one is exposed beyond loopback."""
        configured, local = self._config.server.front_end, is_loopback(self._address.host)
        if configured == "auto":
            return "native" if is_installed() and local else "grpcio"
        if configured == "native" and not local:
            _LOG.warning(
                "the native front end is exposed: it limits neither connections nor a message before it is "
                "received, and has neither TLS nor tokens",
                host=self._address.host,
            )
        return configured

    def _log_device(self) -> None:
        self._metrics.device.labels(self._device.name, self._device.provider).set(1)
        self._metrics.front_end.labels(self.front_end).set(1)
        _LOG.info("device taken", device=self._device.name, provider=self._device.provider)

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._rescan_requested.set)

    def _stop(self) -> None:
        (self._forced if self._stopping.is_set() else self._stopping).set()
