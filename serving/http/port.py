"""Runs the HTTP application in a thread of its own, with limits on connections, headers and time.

uvicorn parses HTTP. It has no limit on the duration of a connection, so the protocol here adds one: a client
that sends or reads slowly is cut off after CONNECTION_SECONDS. A connection carries one request. So even if
the length of a request is ambiguous, no second request can be hidden in the rest of its bytes.
"""

import asyncio
import socket
import ssl
import threading
from typing import Any

import structlog
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.errors import ConfigurationError
from serving.frontend.address import join
from serving.security.tls import Reloaded, TlsFiles

_LOG = structlog.get_logger(__name__)

MAX_CONNECTIONS = 100
CONNECTION_SECONDS = 10.0
"""Longest duration of a connection, equal to Prometheus' default timeout."""
MAX_HEADER_BYTES = 16 * 1024
"""Limit on headers that arrive in several pieces. One piece may have 64 KiB."""
START_SECONDS = 10.0
CLOSE_SECONDS = 5.0


class _Protocol(H11Protocol):
    """Refuses connections beyond MAX_CONNECTIONS and ends every connection after CONNECTION_SECONDS."""

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - as in the base class
        super().connection_made(transport)
        self._limit = self.loop.call_later(CONNECTION_SECONDS, transport.abort)
        if len(self.connections) > MAX_CONNECTIONS:
            peer = transport.get_extra_info("peername")
            _LOG.warning("HTTP connection refused", peer=peer and peer[0], connections=MAX_CONNECTIONS)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._limit.cancel()
        super().connection_lost(exc)


class HttpPort:
    """A listening HTTP server and its thread."""

    def __init__(self, host: str, port: int, application: Starlette, tls: TlsFiles | None = None) -> None:
        """Listen at once; raise ConfigurationError if the port or the certificate is not available."""
        self._certificate: _Certificate | None = None
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            application,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=128,
            headers=[("Connection", "close")],
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        config.load()
        if tls is not None:
            config.ssl = tls.ssl_context()
            self._certificate = _Certificate(config.ssl, tls)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._server.server_state.connections)

    def refresh(self) -> None:
        """Use a changed certificate for new connections."""
        if self._certificate is not None:
            self._certificate.refresh()

    def close(self) -> None:
        """Stop the server and its thread; connections end within a second."""
        self._server.should_exit = True
        self._thread.join(CLOSE_SECONDS)
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))


class _Certificate:
    """The certificate of a running HTTPS server."""

    def __init__(self, context: ssl.SSLContext, files: TlsFiles) -> None:
        self._context, self._files = context, files
        self._reloaded = Reloaded(files)

    def refresh(self) -> None:
        """Load changed files into the context, unless they are invalid."""
        self._reloaded.refresh(self._load)

    def _load(self) -> bool:
        self._files.check()
        self._context.load_cert_chain(self._files.certificate, self._files.key)
        return True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        raise ConfigurationError(
            f"metrics port: cannot listen on {join(host, port)}: {error.strerror}"
        ) from error
