"""The native front end: HTTP/2 and gRPC in Rust, outside the interpreter's lock, by pygrpc-native.

An engine thread receives ModelInfer calls in batches. The thread that ends a request also answers it. A
large message is decoded in a separate thread, so that the engine's thread continues to receive. All other
RPCs are forwarded to a grpcio server on a Unix socket.

Not supported: TLS, tokens, a message limit before receipt, refusal of compressed calls, and a limit on
connections (docs/security.md).
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING

import grpc
import structlog

from serving.api.interceptors import refuse
from serving.api.outline import LARGE_MESSAGE_BYTES
from serving.api.request_id import request_id_of, trailers
from serving.api.wire import INFERENCE_SERVICE
from serving.config import ServerSettings
from serving.errors import ConfigurationError, Overloaded, first_line
from serving.frontend.address import check_free, join
from serving.frontend.callers import Metadata, caller_of
from serving.frontend.interface import Begin, Call, Pending, Refusal

if TYPE_CHECKING:
    from pygrpc_native import NativeGrpcFront

_LOG = structlog.get_logger(__name__)

MODEL_INFER = f"/{INFERENCE_SERVICE}/ModelInfer"
MAX_EVENTS = 64
"""Maximum number of calls and cancellations received before the engine schedules the next batch."""
SPARE_STREAMS = 1024
"""Number of HTTP/2 streams of a connection beyond the calls that may be in progress. A client at its stream
limit delays further calls, even health checks. With spare streams the server can answer or refuse them."""
Details = tuple[Metadata, str, float | None]
"""A call's metadata, its peer, and the seconds until its deadline or None."""
NO_DETAILS: Details = ((), "", None)
FLUSH_SECONDS = 2.0
"""Maximum time to write the last answers before the front end closes."""
SETTLE_SECONDS = 0.2
"""Wait after the last write: written answers may still be in a socket's buffer, and closing loses them."""


def is_installed() -> bool:
    """Return whether pygrpc-native is installed."""
    return find_spec("pygrpc_native") is not None


class NativeFrontEnd:
    """Receives inference calls; the engine's threads call `receive`."""

    def __init__(
        self,
        host: str,
        port: int,
        fallback: str,
        settings: ServerSettings,
        begin: Begin,
        wake_engine: Callable[[], None],
        caller_metadata: str | None = None,
    ) -> None:
        """Start listening. Calls wait until `receive` is called.

        fallback: path of the grpcio server's socket. wake_engine: called after the decoder's thread began a
        call. caller_metadata: see `serving.frontend.callers`.
        Raises ConfigurationError if pygrpc-native is not installed or the port is not available.
        """
        if not is_installed():
            raise ConfigurationError(
                'server.front_end "native": expected the package pygrpc-native, which is not installed'
            )
        from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

        self._cancel_event = EVENT_CANCEL
        self._settings = settings
        self._begin = begin
        self._wake_engine = wake_engine
        self._caller_metadata = caller_metadata
        self._pending: dict[int, Pending] = {}
        """Calls that are admitted and have not ended, by number."""
        self._decoder = ThreadPoolExecutor(1, "decoder")
        self._decoding: set[int] = set()
        """Calls whose large message is being decoded, or waits for the decoder's thread."""
        self._cancelled: set[int] = set()
        """Calls in `_decoding` that were cancelled."""
        check_free(host, port)
        try:
            self._front = NativeGrpcFront(
                join(host, port),
                [(MODEL_INFER, False)],
                io_threads=1,
                call_details=True,
                metrics=True,
                keepalive_time_ms=round(settings.keepalive_seconds * 1e3),
                max_concurrent_streams=settings.max_concurrent_rpcs + SPARE_STREAMS,
            )
            self._front.set_fallback(fallback)
            self._front.start()
        except Exception as error:  # the library raises OSError, ValueError and RuntimeError
            raise ConfigurationError(
                f"gRPC port: cannot listen on {join(host, port)}: {first_line(error)}"
            ) from error
        self.port: int = self._front.bound_port

    def receive(self, *, wait: bool) -> bool:
        """Receive the calls that have arrived; with `wait`, block until there is one.

        Returns False after the front end was closed.
        """
        events = self._front.recv_batch_details(MAX_EVENTS, None if wait else 0)
        if events is None:
            return False
        cancelled = {number for kind, number, *_ in events if kind == self._cancel_event}
        for kind, number, _, payload, _, details in events:
            try:
                if kind == self._cancel_event:
                    self._cancel(number)
                elif number not in cancelled:
                    self._accept(number, payload or b"", details or NO_DETAILS)
            except Exception as error:  # a bug of ours: only this call fails
                self._fail(number, error)
        return True

    def _fail(self, number: int, error: Exception) -> None:
        _LOG.error("call not accepted", exc_info=error)
        self._front.fail(number, grpc.StatusCode.INTERNAL.value[0], "the call could not be accepted")

    def close(self, *, flush: bool) -> None:
        """Close every connection; with `flush`, first wait until all answers are written.

        The library has no flush. Its counts of started and ended calls show when all answers are written.
        """
        ends = time.monotonic() + FLUSH_SECONDS
        while flush and self._unwritten() and time.monotonic() < ends:
            time.sleep(0.01)
        if flush:
            time.sleep(SETTLE_SECONDS)
        self._front.close()
        self._decoder.shutdown(wait=False, cancel_futures=True)

    def _unwritten(self) -> int:
        metrics = self._front.metrics()
        assert metrics is not None, "metrics were enabled at construction"
        calls = metrics["methods"][MODEL_INFER]
        return int(calls["started"]) - sum(int(ended["count"]) for ended in calls["status"].values())

    def _accept(self, number: int, payload: bytes, details: Details) -> None:
        call = _NativeCall(self._front, self._pending, number, details, self._caller_metadata)
        limits = self._settings
        if len(payload) > limits.max_message_bytes:
            call.refuse_overloaded(
                f"message: expected at most {limits.max_message_bytes} bytes, got {len(payload)}"
            )
        elif len(self._pending) + len(self._decoding) >= limits.max_concurrent_rpcs:
            call.refuse_overloaded(
                f"calls: expected at most {limits.max_concurrent_rpcs} in progress, got one more"
            )
        elif len(payload) > LARGE_MESSAGE_BYTES:
            self._decoding.add(number)
            self._decoder.submit(self._begin_large, number, payload, call, details[2])
        else:
            self._begin_call(number, payload, call, details[2])

    def _begin_call(self, number: int, payload: bytes, call: Call, seconds_left: float | None) -> None:
        pending = self._begin(payload, call, seconds_left)
        if pending is not None:
            self._pending[number] = pending
            if pending.request.closed:  # it ended before it was stored
                self._pending.pop(number, None)

    def _begin_large(self, number: int, payload: bytes, call: Call, seconds_left: float | None) -> None:
        """Begin a call in the decoder's thread, unless it was cancelled."""
        try:
            if number not in self._cancelled:
                self._begin_call(number, payload, call, seconds_left)
        except Exception as error:  # a bug of ours: only this call fails
            self._fail(number, error)
        self._decoding.discard(number)
        if number in self._cancelled:
            self._cancelled.discard(number)
            self._cancel(number)
        self._wake_engine()

    def _cancel(self, number: int) -> None:
        """End the request of a call that its caller cancelled or whose deadline passed."""
        # A call that is still being decoded may have no request yet. Then `_begin_large` cancels it later. No
        # cancellation is missed, because `_begin_large` updates `_decoding` before it reads `_cancelled`.
        if number in self._decoding:
            self._cancelled.add(number)
        pending = self._pending.pop(number, None)
        if pending is not None:
            pending.cancel()


class _NativeCall:
    """A call in progress. If its caller left, answers are discarded."""

    __slots__ = ("_caller_metadata", "_details", "_front", "_number", "_pending")

    def __init__(
        self,
        front: "NativeGrpcFront",
        pending: dict[int, Pending],
        number: int,
        details: Details,
        caller_metadata: str | None,
    ) -> None:
        self._front, self._pending, self._number = front, pending, number
        self._details, self._caller_metadata = details, caller_metadata

    @property
    def metadata(self) -> Metadata:
        return self._details[0]

    @property
    def caller(self) -> str:
        return caller_of(self._details[1], self.metadata, self._caller_metadata)

    @property
    def request_id(self) -> str:
        return request_id_of(self.metadata)

    def answer(self, response: bytes, request_id: str) -> None:
        self._pending.pop(self._number, None)
        if request_id:
            self._front.respond(self._number, response, None, trailers(request_id) or None)
        else:
            self._front.respond(self._number, response)

    def refuse(self, refusal: Refusal, request_id: str) -> None:
        self._pending.pop(self._number, None)
        code: int = refusal.status.value[0]
        # The library raises on reserved keys, so no retry hint can be sent.
        sent = [trailer for trailer in refusal.trailers if not trailer[0].startswith("grpc-")]
        self._front.fail(self._number, code, refusal.details, [*sent, *trailers(request_id)] or None)

    def refuse_overloaded(self, details: str) -> None:
        """Refuse a call without decoding it."""
        request_id = self.request_id
        self.refuse(refuse("ModelInfer", request_id, Overloaded(details)), request_id)
