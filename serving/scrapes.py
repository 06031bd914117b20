"""The HTTP port that Prometheus reads metrics from."""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.registry import RestrictedRegistry

from serving.errors import ConfigurationError
from serving.frontend.address import join
from serving.metrics import Metrics


@dataclass
class Scrapes:
    """The metrics' HTTP server, running in a thread of its own."""

    server: WSGIServer
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
        return Scrapes(*start_http_server(port, host, _ScrapedRegistry(registry, metrics)))
    except OSError as error:
        where = join(host, port)
        raise ConfigurationError(f"metrics port: cannot listen on {where}: {error.strerror}") from error
