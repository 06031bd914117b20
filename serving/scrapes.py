"""The HTTP port that Prometheus reads metrics from."""

from dataclasses import dataclass
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from serving.errors import ConfigurationError
from serving.frontend.address import join


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


def listen_for_scrapes(host: str, port: int, registry: CollectorRegistry) -> Scrapes:
    """Serve the registry over HTTP; raise ConfigurationError where the port can't be had."""
    try:
        return Scrapes(*start_http_server(port, host, registry))
    except OSError as error:
        where = join(host, port)
        raise ConfigurationError(f"metrics port: cannot listen on {where}: {error.strerror}") from error
