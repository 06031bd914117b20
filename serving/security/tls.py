"""The server's certificate, its key, and the authority of client certificates.

Changed files take effect at the next handshake; open connections keep the old certificate. If the new files
are invalid, the old ones stay in use and one line is logged.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from serving.errors import ConfigurationError

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. With `client_ca`, clients must present a certificate that this authority signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def check(self) -> None:
        """Raise ConfigurationError if a file is missing or invalid, or certificate and key do not match."""
        self.ssl_context()

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context for an HTTPS server that asks no client for a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            if self.client_ca is not None:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(self.client_ca)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(f"security: {self._culprit()}: {reason}") from error
        return context

    def stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return what changes when a file changes: its modification time, inode and size."""
        return tuple(map(_stamp, self._paths()))

    def grpc_configuration(self) -> grpc.ServerCertificateConfiguration:
        """Read the files for gRPC; raise ConfigurationError as `check` does."""
        self.check()
        authority = None if self.client_ca is None else self.client_ca.read_bytes()
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)

    def _paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.certificate, self.key, self.client_ca) if path is not None)

    def _culprit(self) -> str:
        """Name the file that cannot be read, otherwise all files."""
        for path in self._paths():
            if _stamp(path) is None:
                return str(path)
        return ", ".join(map(str, self._paths()))


def _no_password() -> bytes:
    raise ValueError("expected a key without a password, got an encrypted key")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


class Reloaded:
    """Calls a function once after the files changed. If it raises, logs one line and keeps the old state."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = files.stamp()

    def refresh(self, load: Callable[[], object]) -> object | None:
        """Return the result of `load` if the files changed and are valid, otherwise None."""
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            loaded = load()
        except (ConfigurationError, OSError) as error:
            _LOG.error("certificate not reloaded; the old one stays in use", error=str(error))
            return None
        _LOG.info("certificate reloaded", certificate=str(self._files.certificate))
        return loaded


def grpc_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that read changed files at the next handshake."""
    reloaded = Reloaded(files)
    return grpc.dynamic_ssl_server_credentials(
        files.grpc_configuration(),
        lambda: reloaded.refresh(files.grpc_configuration),
        require_client_authentication=files.client_ca is not None,
    )
