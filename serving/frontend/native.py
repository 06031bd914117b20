"""The native front end: HTTP/2 and gRPC in Rust, outside the interpreter's lock, by pygrpc-native.

An engine thread receives ModelInfer calls in batches; whichever thread ends a request answers it. A
large message is decoded in a thread of its own, so that the engine's thread goes on receiving. All other
calls go through to a grpcio server on a Unix socket. What this cannot do: TLS, tokens, limiting a
message before it is received, refusing compressed calls, limiting connections (docs/security.md).
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
"""Calls and cancellations taken in at once, before the engine looks at what to run."""
SPARE_STREAMS = 1024
"""A connection's streams beyond the calls that may be in progress: a client at its limit of streams would
hold further calls back, health checks too, where they should be answered or refused."""
Details = tuple[Metadata, str, float | None]
"""A call's metadata, its peer, and the seconds until its deadline, where it has one."""
NO_DETAILS: Details = ((), "", None)
FLUSH_SECONDS = 2.0
"""How long the last answers may take to be written before the front end closes."""
SETTLE_SECONDS = 0.2
"""Answers that were written may still lie in a socket's buffer, and closing at once would lose them."""


def is_installed() -> bool:
    """Return whether pygrpc-native is there."""
    return find_spec("pygrpc_native") is not None


class NativeFrontEnd:
    """Takes in inference calls for the engine, which drives it by `receive`."""

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
        """Listen; calls wait until they are received. fallback: the path of the grpcio server's socket.

        wake_engine: called after a call was begun in another thread than the receiver's.
        caller_metadata: the metadata key that names callers, where there is one.
        Raises ConfigurationError where pygrpc-native is not installed or the port is taken.
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
        """Calls that were admitted and have not ended."""
        self._decoder = ThreadPoolExecutor(1, "decoder")
        self._decoding: set[int] = set()
        """Calls whose large message is being decoded, or waits for it."""
        self._gone: set[int] = set()
        """Those of them whose caller has gone."""
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
        except Exception as error:  # it raises OSError, ValueError and RuntimeError
            raise ConfigurationError(
                f"gRPC port: cannot listen on {join(host, port)}: {first_line(error)}"
            ) from error
        self.port: int = self._front.bound_port

    def receive(self, *, wait: bool) -> bool:
        """Take in the calls that have come, waiting for one if asked; False once it is closed."""
        events = self._front.recv_batch_details(MAX_EVENTS, None if wait else 0)
        if events is None:
            return False
        cancelled = {number for kind, number, *_ in events if kind == self._cancel_event}
        for kind, number, _, payload, _, details in events:
            try:
                if kind == self._cancel_event:
                    self._cancel(number)
                elif number not in cancelled:
                    self._take(number, payload or b"", details or NO_DETAILS)
            except Exception as error:  # our own bug: this call fails, the others go on
                self._fail(number, error)
        return True

    def _fail(self, number: int, error: Exception) -> None:
        _LOG.error("call not taken in", exc_info=error)
        self._front.fail(number, grpc.StatusCode.INTERNAL.value[0], "the call could not be taken in")

    def close(self, *, flush: bool) -> None:
        """Close every connection; with flush, which blocks, once the answers given so far are written.

        The library cannot flush itself: its counts of calls begun and ended show when all are written.
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
        assert metrics is not None, "the front end was made with metrics"
        calls = metrics["methods"][MODEL_INFER]
        return int(calls["started"]) - sum(int(each["count"]) for each in calls["status"].values())

    def _take(self, number: int, payload: bytes, details: Details) -> None:
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
            if pending.request.closed:  # it ended in this moment
                self._pending.pop(number, None)

    def _begin_large(self, number: int, payload: bytes, call: Call, seconds_left: float | None) -> None:
        """Begin a call in the decoder's thread, unless its caller has gone."""
        try:
            if number not in self._gone:
                self._begin_call(number, payload, call, seconds_left)
        except Exception as error:  # our own bug: this call fails, the others go on
            self._fail(number, error)
        self._decoding.discard(number)  # before the next line: see `_cancel`
        if number in self._gone:
            self._gone.discard(number)
            self._cancel(number)
        self._wake_engine()

    def _cancel(self, number: int) -> None:
        """End the request of a call whose caller cancelled it, or whose deadline passed."""
        if number in self._decoding:  # its thread looks again after it has begun it
            self._gone.add(number)
        pending = self._pending.pop(number, None)
        if pending is not None:
            pending.cancel()


class _NativeCall:
    """A call in progress; one whose caller has gone may be answered all the same."""

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
    def caller(self) -> str:
        metadata, peer, _ = self._details
        return caller_of(peer, metadata, self._caller_metadata)

    def answer(self, response: bytes) -> None:
        self._pending.pop(self._number, None)
        self._front.respond(self._number, response)

    def refuse(self, refusal: Refusal, request_id: str) -> None:  # noqa: ARG002 - streams need it
        self._pending.pop(self._number, None)
        code: int = refusal.status.value[0]
        # The library reserves these keys and raises on them, so no retry hint can be sent.
        trailers = [each for each in refusal.trailers if not each[0].startswith("grpc-")]
        self._front.fail(self._number, code, refusal.details, trailers or None)

    def refuse_overloaded(self, details: str) -> None:
        """Refuse a call that is not even looked at."""
        self.refuse(refuse("ModelInfer", "", Overloaded(details)), "")
