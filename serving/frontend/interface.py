"""What a front end and the inference service need of each other."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import grpc

from serving.engine.request import Request


class Refusal(NamedTuple):
    """How a call ends without an answer."""

    status: grpc.StatusCode
    details: str
    trailers: tuple[tuple[str, str], ...]


class Call(Protocol):
    """One ModelInfer call, or one message of a stream, in progress.

    It is answered or refused, once, from any thread; neither raises, also where the caller has gone.
    """

    @property
    def caller(self) -> str:
        """Who sent it: equal for calls that count as one caller's."""

    def answer(self, response: bytes) -> None:
        """Send a response."""

    def refuse(self, refusal: Refusal, request_id: str) -> None:
        """End the call with a status; in a stream the refusal is the answer to that request."""


class Pending(NamedTuple):
    """A call that was admitted."""

    request: Request
    cancel: Callable[[], None]
    """Cancels it, unless it has ended."""


Begin = Callable[[bytes, Call, float | None], Pending | None]
"""`serving.api.inference.Inference.begin`."""
