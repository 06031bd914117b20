"""The gRPC port: which front end listens on it, and how its connections end.

With the native front end, the grpcio server listens on a Unix socket behind it. Otherwise the grpcio server
listens on the port itself.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
import structlog

from serving.config import ServerSettings
from serving.errors import ConfigurationError
from serving.frontend import grpcio
from serving.frontend.address import is_loopback
from serving.frontend.connections import end_connections
from serving.frontend.interface import Begin
from serving.frontend.native import NativeFrontEnd, is_installed
from serving.security.security import Security
from serving.waiting import first_of, off_loop

_LOG = structlog.get_logger(__name__)

CLOSE_SECONDS = 5.0
"""Longest time to close the native front end, and then the grpcio server."""
SETTLE_SECONDS = 0.2
"""Time for the last answers to leave the grpcio front end after the engine became idle."""


class GrpcPort:
    """The port that serves gRPC, and the servers behind it."""

    def __init__(self, host: str, port: int, settings: ServerSettings, security: Security) -> None:
        """Choose the front end, and warn if it is exposed beyond loopback without protection.

        Raises ConfigurationError for the native front end with TLS or tokens, which it does not support.
        """
        self.front_end = _choose_front_end(host, settings, secured=security.is_configured)
        _warn_if_exposed(host, self.front_end, encrypted=security.tls is not None)
        self._security = security
        self.native: NativeFrontEnd | None = None
        """The native front end, if it is used and open."""
        self._host = host
        self.port = port
        """The port to listen on; 0 for a free one until `open`."""
        self._settings = settings
        self._server: grpc.aio.Server | None = None
        self._socket_folder: Path | None = None

    async def open(
        self,
        server: grpc.aio.Server,
        begin: Begin,
        wake_engine: Callable[[], None],
        caller_metadata: str | None,
    ) -> None:
        """Start the servers and listen; raise ConfigurationError if the port is not available.

        server: the grpcio server with all services. The other arguments are those of NativeFrontEnd.
        """
        self._server = server
        if self.front_end == "grpcio":
            self.port = grpcio.listen(server, self._host, self.port, self._security.credentials())
            await server.start()
            return
        self._socket_folder = Path(tempfile.mkdtemp(prefix="offramp-"))
        fallback = str(self._socket_folder / "fallback.sock")
        server.add_insecure_port(f"unix:{fallback}")
        await server.start()
        try:
            self.native = NativeFrontEnd(
                self._host, self.port, fallback, self._settings, begin, wake_engine, caller_metadata
            )
        except ConfigurationError:
            self.remove_socket()
            raise
        self.port = self.native.port

    async def close(self, *, flush: bool, forced: asyncio.Event) -> None:
        """End every connection and stop the servers; with `flush`, wait for the last answers first.

        Late calls and open health watches end with UNAVAILABLE. forced: ends the wait when it is set.
        """
        if self.native is not None:
            closing = off_loop(partial(self.native.close, flush=flush))
            await first_of(closing, forced.wait(), asyncio.sleep(CLOSE_SECONDS))
        else:
            if flush:
                await first_of(forced.wait(), asyncio.sleep(SETTLE_SECONDS))
            end_connections(self.port)
        if self._server is not None:
            await first_of(self._server.stop(grace=None), asyncio.sleep(CLOSE_SECONDS))

    def remove_socket(self) -> None:
        """Remove the Unix socket behind the native front end."""
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)


def _choose_front_end(host: str, settings: ServerSettings, *, secured: bool) -> str:
    is_local = is_loopback(host)
    if settings.front_end == "auto":
        return "native" if is_installed() and is_local and not secured else "grpcio"
    if settings.front_end == "native" and secured:
        raise ConfigurationError(
            'server.front_end "native": expected "grpcio" or "auto", since it supports neither TLS nor tokens'
        )
    return settings.front_end


def _warn_if_exposed(host: str, front_end: str, *, encrypted: bool) -> None:
    """Log one warning if other machines can connect and nothing protects the traffic."""
    if is_loopback(host):
        return
    if front_end == "native":
        _LOG.warning(
            "the native front end is exposed: it limits no connections, checks message sizes only after "
            "receipt, and has no TLS or tokens",
            host=host,
        )
    elif not encrypted:
        _LOG.warning("exposed without TLS: other machines can read and change the traffic", host=host)
