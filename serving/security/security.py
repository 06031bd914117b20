"""The security of one server: its certificate, its tokens, and the names of its callers."""

import grpc
from prometheus_client import Counter

from serving.config import SecuritySettings
from serving.errors import ConfigurationError
from serving.frontend.address import is_loopback
from serving.security.authentication import Authentication
from serving.security.tls import TlsFiles, grpc_credentials
from serving.security.tokens import TokenFile


class Security:
    """What the `[security]` section configures."""

    def __init__(self, settings: SecuritySettings) -> None:
        """Read all files; raise ConfigurationError if one is missing or invalid."""
        self.settings = settings
        self.tls: TlsFiles | None = None
        if settings.certificate is not None and settings.key is not None:
            self.tls = TlsFiles(settings.certificate, settings.key, settings.client_ca)
            self.tls.check()
        self._tokens = None if settings.token_file is None else TokenFile(settings.token_file)

    @property
    def has_tokens(self) -> bool:
        """Whether calls need a token."""
        return self._tokens is not None

    @property
    def is_configured(self) -> bool:
        """Whether connections are encrypted or calls need a token."""
        return self.tls is not None or self.has_tokens

    def credentials(self) -> grpc.ServerCredentials | None:
        """Return the credentials of the gRPC port; None without TLS."""
        return None if self.tls is None else grpc_credentials(self.tls)

    def interceptors(self, failures: Counter) -> tuple[grpc.aio.ServerInterceptor, ...]:
        """Return the interceptors of the gRPC server. failures: see `Authentication`."""
        if self._tokens is None:
            return ()
        return (Authentication(self._tokens, failures, open_health=self.settings.open_health),)

    def check_training(self, host: str) -> None:
        """Raise ConfigurationError if callers on other machines could start training jobs without a token."""
        if not is_loopback(host) and not self.has_tokens:
            raise ConfigurationError(
                f"training on {host}: expected tokens (security.token_file), since every caller could start "
                "jobs; --insecure allows it"
            )

    def refresh(self) -> None:
        """Read the token file again. Changed certificates are read at the next handshake."""
        if self._tokens is not None:
            self._tokens.refresh()
