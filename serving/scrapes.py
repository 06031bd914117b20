"""The HTTP port that Prometheus reads metrics from.

Every connection has a thread, at most MAX_CONNECTIONS of them. One that is not over in time is cut off,
wherever it stands: a request that never ends, an answer that nobody reads.
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
from serving.metrics import Metrics

_LOG = structlog.get_logger(__name__)

MAX_CONNECTIONS = 100
CONNECTION_SECONDS = 10.0
"""How long a connection may last: Prometheus gives up after as long by default."""


class _Server(ThreadingHTTPServer):
    """Answers each connection in a thread, within bounds on their number and time."""

    request_queue_size = 128

    def __init__(self, host: str, port: int, registry: "_ScrapedRegistry") -> None:
        self._opened: dict[socket.socket, float] = {}
        """When each connection was accepted, on the monotonic clock."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, where = found[0][0], found[0][4]
        super().__init__((str(where[0]), port), MetricsHandler.factory(registry))

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401 - as declared above it
        """Return whether another connection is taken; one that is not is closed at once."""
        if len(self._opened) >= MAX_CONNECTIONS:
            _LOG.warning("metrics connection refused", peer=client_address[0], connections=MAX_CONNECTIONS)
            return False
        self._opened[request] = time.monotonic()
        return True

    def service_actions(self) -> None:
        """Cut off connections that lasted too long; called twice a second at least."""
        for connection, opened in list(self._opened.items()):
            if time.monotonic() - opened > CONNECTION_SECONDS:
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    connection.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as declared above it
        """Close a connection."""
        self._opened.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - as declared
        """Log what a connection failed with; a scraper that left is no error."""
        error = sys.exception()
        if not isinstance(error, OSError):
            _LOG.error("metrics not answered", peer=client_address[0], exc_info=error)


@dataclass
class Scrapes:
    """The metrics' HTTP server, running in a thread of its own."""

    server: ThreadingHTTPServer
    thread: Thread

    @property
    def port(self) -> int:
        """The port that it got."""
        return self.server.server_port

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@dataclass(frozen=True)
class _ScrapedRegistry:
    """A registry from which the series of versions that are gone are removed once they were scraped."""

    registry: CollectorRegistry
    metrics: Metrics

    def collect(self) -> Iterable[Metric]:
        gone = self.metrics.gone()
        yield from self.registry.collect()
        self.metrics.remove(gone)

    def restricted_registry(self, names: Iterable[str]) -> RestrictedRegistry:
        return self.registry.restricted_registry(names)


def listen_for_scrapes(host: str, port: int, registry: CollectorRegistry, metrics: Metrics) -> Scrapes:
    """Serve the registry over HTTP; raise ConfigurationError where the port can't be had.

    metrics: whose instruments are in the registry.
    """
    try:
        server = _Server(host, port, _ScrapedRegistry(registry, metrics))
    except OSError as error:
        where = join(host, port)
        raise ConfigurationError(f"metrics port: cannot listen on {where}: {error.strerror}") from error
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    return Scrapes(server, thread)
