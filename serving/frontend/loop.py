"""Runs inference calls on an event loop: begins each call and awaits its result.

The loop decodes and admits a call, and an engine thread ends it. A large message is decoded in a separate
thread, so that it does not block the loop. Results return in bulk: the loop is woken once for all results
that are ready.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import grpc

from serving.api.inference import Inference
from serving.api.outline import LARGE_MESSAGE_BYTES
from serving.api.request_id import request_id_of, trailers
from serving.frontend.callers import Metadata, authenticated_name, caller_of, token_name
from serving.frontend.interface import Pending, Refusal

Context: TypeAlias = grpc.aio.ServicerContext
CallResult = bytes | tuple[Refusal, str]
"""A response, or a refusal with the request's id."""


class InferenceLoop:
    """Runs inference calls. Construct it in the event loop that runs the calls."""

    def __init__(
        self, inference_service: Inference, wake_engine: Callable[[], None], caller_metadata: str | None
    ) -> None:
        """Start without calls. caller_metadata: see `serving.frontend.callers`."""
        self._inference = inference_service
        self._caller_metadata = caller_metadata
        self._results = _Results()
        self._loop = asyncio.get_running_loop()
        self._decoder = ThreadPoolExecutor(1, "decoder")
        self._wake_engine = wake_engine
        self._wake_up_scheduled = False

    async def infer(self, payload: bytes, context: Context, *, streamed: bool) -> CallResult:
        """Begin a call and return its result; cancel its request if the caller leaves."""
        call = _LoopCall(self._results, context, self._caller_metadata)
        begin = partial(self._inference.begin, payload, call, context.time_remaining(), streamed=streamed)
        if len(payload) > LARGE_MESSAGE_BYTES:
            pending = await self._begin_in_thread(begin)
        else:
            pending = begin()
        if not self._wake_up_scheduled:  # one wake-up for all calls of this loop iteration
            self._wake_up_scheduled = True
            self._loop.call_soon(self._wake_up)
        try:
            result = await call.future
            if call.answered_id and not streamed:
                context.set_trailing_metadata(trailers(call.answered_id))
            return result
        except asyncio.CancelledError:
            if pending is not None:
                pending.cancel()
            raise

    async def _begin_in_thread(self, begin: Callable[[], Pending | None]) -> Pending | None:
        beginning = self._loop.run_in_executor(self._decoder, begin)
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(_cancel_begun)
            raise

    def _wake_up(self) -> None:
        self._wake_up_scheduled = False
        self._wake_engine()


def _cancel_begun(beginning: "asyncio.Future[Pending | None]") -> None:
    pending = beginning.result()
    if pending is not None:
        pending.cancel()


class _LoopCall:
    """A call whose result is awaited by a task of the loop."""

    __slots__ = ("_caller_metadata", "_context", "_results", "_token", "answered_id", "future")

    def __init__(self, results: "_Results", context: Context, caller_metadata: str | None) -> None:
        self._results = results
        self._context, self._caller_metadata = context, caller_metadata
        self._token = token_name.get()
        self.future = results.new_future()
        self.answered_id = ""

    @property
    def metadata(self) -> Metadata:
        return self._context.invocation_metadata() or ()

    @property
    def caller(self) -> str:
        authenticated = authenticated_name(self._token, self._context.auth_context())
        return caller_of(self._context.peer(), self.metadata, self._caller_metadata, authenticated)

    @property
    def request_id(self) -> str:
        return request_id_of(self.metadata)

    def answer(self, response: bytes, request_id: str) -> None:
        self.answered_id = request_id
        self._results.set(self.future, response)

    def refuse(self, refusal: Refusal, request_id: str) -> None:
        self._results.set(self.future, (refusal, request_id))


class _Results:
    """Sets futures of an event loop from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._ready: deque[tuple[asyncio.Future[CallResult], CallResult]] = deque()
        self._delivery_scheduled = False

    def new_future(self) -> "asyncio.Future[CallResult]":
        return self._loop.create_future()

    def set(self, future: "asyncio.Future[CallResult]", result: CallResult) -> None:
        if threading.get_ident() == self._thread:
            _set(future, result)
            return
        self._ready.append((future, result))
        if not self._delivery_scheduled:
            self._delivery_scheduled = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, so no task waits
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._delivery_scheduled = False  # reset first, so that a later result schedules another delivery
        while self._ready:
            _set(*self._ready.popleft())


def _set(future: "asyncio.Future[CallResult]", result: CallResult) -> None:
    if not future.done():  # otherwise its task was cancelled
        future.set_result(result)
