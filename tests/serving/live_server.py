"""Runs a real server in a separate thread, and reads its state from outside."""

import asyncio
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar
from unittest.mock import patch

import grpc
from google.protobuf.message import Message
from prometheus_client.parser import text_string_to_metric_families

from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, health, service_rpcs
from serving.config import Config
from serving.engine.engine import Engine
from serving.engine.version import ServedVersion
from serving.lifecycle import grpc_port, server
from serving.lifecycle.server import Address, Server
from serving.lifecycle.training_service import TrainingOffer

HOST = "127.0.0.1"
PATIENCE_SECONDS = 20.0
"""Longest time that a test waits for an expected event."""

Result = TypeVar("Result")


def eventually(condition: Callable[[], bool], patience_seconds: float = PATIENCE_SECONDS) -> bool:
    """Wait until a condition is true; return False after the time limit."""
    ends = time.monotonic() + patience_seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        threading.Event().wait(0.005)
    return True


class LiveServer:
    """A server on free ports, which the context manager starts and drains.

    At the end of the block, the drain does not wait for calls that are still to come.
    """

    def __init__(
        self,
        models: Path,
        config: dict[str, Any] | None = None,
        *,
        front_end: str = "grpcio",
        state_dir: Path | None = None,
        training: TrainingOffer | None = None,
    ) -> None:
        """Create a server. config: settings as in a TOML file.

        By default one batch runs at once, no row is sampled, and trials are off.
        """
        defaults = {
            "server": {"front_end": front_end},
            "engine": {"workers": 1},
            "monitor": {"shadow_share": 0},
            "trial": {"enabled": False},
        }
        given = config or {}
        settings = given | {section: values | given.get(section, {}) for section, values in defaults.items()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.server = Server(
            models,
            Address(HOST, 0, 0),
            device="cpu",
            config=Config.model_validate(settings),
            state_dir=state_dir,
            training=training,
        )
        self.exit_code: int | None = None

    def __enter__(self) -> Self:
        try:
            self.run(self.server.start())
        except BaseException:
            self._stop_loop()
            raise
        self.channel = grpc.insecure_channel(self.address)
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        if self.exit_code is None:
            with patch.object(server, "UNAVAILABLE_SECONDS", 0), patch.object(grpc_port, "SETTLE_SECONDS", 0):
                self.drain()
        self._stop_loop()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the server's event loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def rescan(self) -> None:
        """Rescan the model repository and wait for the end."""
        self.run(self.server.rescans.rescan())

    def request_rescan(self) -> None:
        """Request a rescan, as SIGHUP does."""
        self._loop.call_soon_threadsafe(self.server.rescans.request)

    def drain(self) -> int:
        """Drain the server as a signal does; return the exit code."""
        self.exit_code = self.run(self.server.drain())
        return self.exit_code

    @property
    def address(self) -> str:
        """The address of the gRPC port."""
        return f"{HOST}:{self.server.grpc.port}"

    @property
    def engine(self) -> Engine:
        """The engine that runs all versions."""
        return self.server.engine

    def version(self, model: str = "scripted") -> ServedVersion:
        """Return the default version of a model."""
        return self.server.repository.get(model)

    def call(self, rpc: str, timeout: float = PATIENCE_SECONDS, **fields: Any) -> Any:  # noqa: ANN401 - any message
        """Call an RPC of the inference service with a request of these fields."""
        kind = next(known.request for known in service_rpcs(INFERENCE_SERVICE) if known.name == rpc)
        return self.send(rpc, kind(**fields), timeout=timeout)

    def send(self, rpc: str, request: Message, timeout: float = PATIENCE_SECONDS) -> Any:  # noqa: ANN401
        """Call an RPC of the inference service with a request."""
        return self.method(rpc)(request, timeout=timeout)

    def method(self, rpc: str) -> Any:  # noqa: ANN401 - grpc has no types
        """Return a callable for an RPC of the inference service."""
        known = next(known for known in service_rpcs(INFERENCE_SERVICE) if known.name == rpc)
        return self.channel.unary_unary(
            f"/{INFERENCE_SERVICE}/{rpc}",
            request_serializer=known.request.SerializeToString,
            response_deserializer=known.response.FromString,
        )

    def scrape(self, query: str = "") -> str:
        """Return the metrics page."""
        url = f"http://{HOST}:{self.server.metrics_port}/metrics{query}"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as page:
            text: str = page.read().decode()
        return text

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.scrape())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()


def health_of(server: LiveServer, service: str) -> str:
    """Return the status of a service from the health service."""
    check = server.channel.unary_unary(
        f"/{HEALTH_SERVICE}/Check",
        request_serializer=health.HealthCheckRequest.SerializeToString,
        response_deserializer=health.HealthCheckResponse.FromString,
    )
    status = check(health.HealthCheckRequest(service=service), timeout=10).status
    return str(health.HealthCheckResponse.ServingStatus.Name(status))
