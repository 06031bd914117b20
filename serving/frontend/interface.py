"""The interface between a front end and the inference service."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import grpc

from serving.engine.request import Request
from serving.frontend.callers import Metadata


class Refusal(NamedTuple):
    """The status of a call that ends without an answer."""

    status: grpc.StatusCode
    details: str
    trailers: tuple[tuple[str, str], ...]


class Call(Protocol):
    """One ModelInfer call, or one message of a stream, in progress.

    It is answered or refused exactly once, from any thread. `answer` and `refuse` never raise, even if the
    caller left.
    """

    @property
    def metadata(self) -> Metadata:
        """The metadata that the caller sent."""

    @property
    def caller(self) -> str:
        """Name of the caller. Calls with equal names count as one caller."""

    @property
    def request_id(self) -> str:
        """The id in the call's metadata, empty without one; see `serving.api.request_id`."""

    def answer(self, response: bytes, request_id: str) -> None:
        """Send a response, with the id in its trailing metadata except on a stream."""

    def refuse(self, refusal: Refusal, request_id: str) -> None:
        """End the call with a status. On a stream, send the refusal as the answer to that request."""


class Pending(NamedTuple):
    """An admitted call."""

    request: Request
    cancel: Callable[[], None]
    """Cancels the request. Has no effect after the request ended."""


Begin = Callable[[bytes, Call, float | None], Pending | None]
"""The signature of `serving.api.inference.Inference.begin`."""
