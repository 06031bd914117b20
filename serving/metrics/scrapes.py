"""The HTTP server from which Prometheus scrapes metrics.

Each connection has a thread; there are at most MAX_CONNECTIONS. A connection is closed after
CONNECTION_SECONDS, even if its request is incomplete or its client does not read the answer.
"""

import contextlib
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from threading import Thread
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Metric, MetricsHandler
from prometheus_client.registry import RestrictedRegistry

from serving.errors import ConfigurationError
from serving.frontend.address import join
from serving.metrics.instruments import Metrics

_LOG = structlog.get_logger(__name__)

MAX_CONNECTIONS = 100
CONNECTION_SECONDS = 10.0
"""Longest duration of a connection, equal to Prometheus' default timeout."""
POLL_SECONDS = 0.1
"""Interval at which the server checks for old connections and for its end."""


class _Server(ThreadingHTTPServer):
    """Answers each connection in a thread; limits their number and duration."""

    request_queue_size = 128

    def __init__(self, host: str, port: int, registry: "_ScrapedRegistry") -> None:
        self._opened: dict[socket.socket, float] = {}
        """The time at which each connection was accepted, on the monotonic clock."""
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, address = addresses[0][0], addresses[0][4]
        super().__init__((str(address[0]), port), MetricsHandler.factory(registry))

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401 - as in the base class
        """Return whether to accept a connection; the base class closes a refused one."""
        if len(self._opened) >= MAX_CONNECTIONS:
            _LOG.warning("metrics connection refused", peer=client_address[0], connections=MAX_CONNECTIONS)
            return False
        self._opened[request] = time.monotonic()
        return True

    def service_actions(self) -> None:
        """Close connections that lasted too long. The base class calls this every POLL_SECONDS."""
        for connection, opened in list(self._opened.items()):
            if time.monotonic() - opened > CONNECTION_SECONDS:
                with contextlib.suppress(OSError):  # the connection has already ended
                    connection.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as in the base class
        """Close a connection."""
        self._opened.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - as in the base
        """Log the error of a connection, unless it is an OSError: then the client disconnected."""
        error = sys.exception()
        if not isinstance(error, OSError):
            _LOG.error("metrics not answered", peer=client_address[0], exc_info=error)


@dataclass
class Scrapes:
    """The HTTP server of the metrics, and its thread."""

    server: ThreadingHTTPServer
    thread: Thread

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self.server.server_port

    def close(self) -> None:
        """Stop the server and its thread."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@dataclass(frozen=True)
class _ScrapedRegistry:
    """A registry that removes the series of unloaded versions after they were scraped."""

    registry: CollectorRegistry
    metrics: Metrics

    def collect(self) -> Iterable[Metric]:
        unloaded = self.metrics.unloaded()
        yield from self.registry.collect()
        self.metrics.remove(unloaded)

    def restricted_registry(self, names: Iterable[str]) -> RestrictedRegistry:
        return self.registry.restricted_registry(names)


def listen_for_scrapes(host: str, port: int, registry: CollectorRegistry, metrics: Metrics) -> Scrapes:
    """Serve a registry over HTTP; raise ConfigurationError if the port is not available.

    metrics: the instruments in the registry.
    """
    try:
        server = _Server(host, port, _ScrapedRegistry(registry, metrics))
    except OSError as error:
        raise ConfigurationError(
            f"metrics port: cannot listen on {join(host, port)}: {error.strerror}"
        ) from error
    thread = Thread(target=server.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True)
    thread.start()
    return Scrapes(server, thread)
