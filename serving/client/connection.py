"""A gRPC channel whose calls raise Offramp's errors. Independent of the service."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message

from serving.api.status import error_of
from serving.api.wire import service_rpcs
from serving.errors import DeadlineExpired, InvalidRequest, OfframpError

DEFAULT_ADDRESS = "127.0.0.1:8001"
DEFAULT_TIMEOUT_SECONDS = 10.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Tls:
    """Encrypted connections. All files are PEM."""

    ca: Path | None = None
    """The authority that signed the server's certificate; by default gRPC's own list of public ones."""
    certificate: Path | None = None
    """The client's certificate, if the server asks for one."""
    key: Path | None = None
    """The key of the client's certificate."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files."""
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest("TLS: expected certificate and key together, got only one of them")
        ca, key, certificate = (
            None if path is None else path.read_bytes() for path in (self.ca, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)


@dataclass(frozen=True)
class Timeout:
    """The longest wait for one call, or for several calls together."""

    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float:
        """The remaining time, at least 0."""
        return max(0.0, self.started + self.seconds - time.monotonic())


class Connection:
    """A connection to a server, usable as a context manager. Thread-safe."""

    services: Sequence[str]
    """The services that a subclass calls."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        tls: Tls | None = None,
        token: str | None = None,
    ) -> None:
        """Open a channel; it connects at the first call. token: sent as bearer token with every call.

        Raises OSError if a file of `tls` cannot be read.
        """
        self._address = address
        self._timeout_seconds = timeout_seconds
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        if tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, tls.credentials(), options)
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._calls = {
            (service, rpc.name): make_call(
                f"/{service}/{rpc.name}",
                request_serializer=rpc.request.SerializeToString,
                response_deserializer=rpc.response.FromString,
            )
            for service in self.services
            for streams, make_call in ((False, self._channel.unary_unary), (True, self._channel.unary_stream))
            for rpc in service_rpcs(service, streams=streams)
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(
        self,
        rpc: str,
        request: Message,
        response_type: type[Response],
        *,
        service: str | None = None,
        timeout: Timeout | None = None,
    ) -> Response:
        """Call an RPC, by default one of the first service. A failure raises the error for its status.

        timeout: by default the connection's, which starts now.
        """
        timeout = timeout or Timeout(self._timeout_seconds)
        seconds_left = timeout.seconds_left
        if not seconds_left:  # gRPC may answer a call with a timeout of 0
            raise DeadlineExpired(f"{self._address}: Deadline Exceeded after {timeout.seconds} s")
        try:
            response = self._calls[service or self.services[0], rpc](
                request, timeout=seconds_left, metadata=self._metadata
            )
        except grpc.RpcError as error:
            waited = (
                f" after {timeout.seconds} s" if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else ""
            )
            raise self._error(error, waited) from error
        assert isinstance(response, response_type)
        return response

    def _stream(
        self, rpc: str, request: Message, response_type: type[Response]
    ) -> Generator[Response, None, None]:
        """Call a streaming RPC of the first service. Closing the generator cancels the call."""
        call = self._calls[self.services[0], rpc](request, metadata=self._metadata)
        try:
            for response in call:
                assert isinstance(response, response_type)
                yield response
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    def _error(self, error: grpc.RpcError, suffix: str = "") -> OfframpError:
        return error_of(error.code(), f"{self._address}: {error.details()}{suffix}")
