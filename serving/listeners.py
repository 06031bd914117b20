"""The ports a server listens on: gRPC with health and reflection, and HTTP for Prometheus."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Thread
from wsgiref.simple_server import WSGIServer

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection, reflection_pb2
from prometheus_client import CollectorRegistry, start_http_server

from serving.api.wire import HEALTH_SERVICE, POOL
from serving.config import ServerSettings
from serving.errors import ConfigurationError

MAX_PENDING_CALLS = 100_000
"""gRPC's core ends calls with CANCELLED, unasked, where more wait to be accepted."""


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


def target(host: str, port: int) -> str:
    """Join host and port; an IPv6 address needs brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_for_scrapes(host: str, port: int, registry: CollectorRegistry) -> Scrapes:
    """Serve the registry over HTTP; raise ConfigurationError where the port can't be had."""
    try:
        return Scrapes(*start_http_server(port, host, registry))
    except OSError as error:
        where = target(host, port)
        raise ConfigurationError(f"metrics port: cannot listen on {where}: {error.strerror}") from error


def listen_for_calls(
    host: str,
    port: int,
    settings: ServerSettings,
    handlers: Sequence[grpc.GenericRpcHandler],
    health_servicer: health.aio.HealthServicer,
    listed: Sequence[str],
) -> tuple[grpc.aio.Server, int]:
    """Make a gRPC server on a port, not yet started; raise ConfigurationError where it can't be had.

    listed are the services that reflection names, beside health and itself.
    """
    server = grpc.aio.server(
        maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.keepalive_time_ms", round(settings.keepalive_seconds * 1e3)),
            ("grpc.keepalive_permit_without_calls", 1),  # or a half-open connection would stay for ever
            ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1e3)),
            ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
            ("grpc.so_reuseport", 0),  # two servers on one port would share it unasked
        ],
    )
    server.add_generic_rpc_handlers(tuple(handlers))
    add_HealthServicer_to_server(health_servicer, server)
    POOL.AddSerializedFile(reflection_pb2.DESCRIPTOR.serialized_pb)
    reflection.enable_server_reflection((*listed, HEALTH_SERVICE, reflection.SERVICE_NAME), server, POOL)
    _check_free(host, port)
    try:
        return server, server.add_insecure_port(target(host, port))
    except RuntimeError as error:
        raise ConfigurationError(f"gRPC port: cannot listen on {target(host, port)}") from error


def _check_free(host: str, port: int) -> None:
    """Raise where a port can't be had, with the cause: gRPC itself tells none, and logs lines of its own."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        where = target(host, port)
        raise ConfigurationError(f"gRPC port: cannot listen on {where}: {error.strerror}") from error
