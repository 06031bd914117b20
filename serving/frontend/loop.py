"""Inference calls on a grpc.aio server: unary ones, and those of a stream.

The event loop decodes and admits a call; an engine thread ends it. Results cross back in bulk: however
many an engine thread hands over, the loop is woken once.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import grpc

from serving.api.answer_form import streamed
from serving.api.inference import Inference
from serving.api.wire import inference
from serving.frontend.callers import caller_of
from serving.frontend.interface import Refusal

Context: TypeAlias = grpc.aio.ServicerContext
Result = bytes | tuple[Refusal, str]
"""A response, or a refusal with the request's id."""

MAX_STREAMED = 256
"""Requests of one stream that may be under way; beyond it the stream is not read."""


class InferenceHandlers:
    """The handlers of ModelInfer and ModelStreamInfer; belongs to the loop that runs where it is made."""

    def __init__(
        self,
        inference_service: Inference,
        wake_engine: Callable[[], None],
        caller_metadata: str | None = None,
    ) -> None:
        """Take the metadata key that names callers, where there is one."""
        self._inference = inference_service
        self._caller_metadata = caller_metadata
        self._results = _Results()
        self._loop = asyncio.get_running_loop()
        self._wake_engine = wake_engine
        self._wake_up_is_due = False

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Return the handlers by RPC; they take and give the wire's bytes."""
        return {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self.model_infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self.model_stream_infer),
        }

    async def model_infer(self, payload: bytes, context: Context) -> bytes:
        """Answer a ModelInferRequest's rows."""
        result = await self._infer(payload, context, streamed=False)
        if isinstance(result, bytes):
            return result
        refusal = result[0]
        del payload, result  # gRPC keeps what ends a call, and with it this frame
        await context.abort(*refusal)
        raise AssertionError("abort returned")

    async def model_stream_infer(
        self, payloads: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        """Answer the requests of a stream in their order.

        They are admitted as they come, up to MAX_STREAMED of them ahead of the answers. An error is the
        answer of its request, and the stream goes on.
        """
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(MAX_STREAMED)
        reading = asyncio.create_task(self._read_stream(payloads, context, answers))
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
        finally:
            reading.cancel()
            while not answers.empty():
                if (left := answers.get_nowait()) is not None:
                    left.cancel()

    async def _read_stream(
        self,
        payloads: AsyncIterator[bytes],
        context: Context,
        answers: "asyncio.Queue[asyncio.Task[bytes] | None]",
    ) -> None:
        async for payload in payloads:
            answer = asyncio.create_task(self._answer_streamed(payload, context))
            try:
                await answers.put(answer)
            except asyncio.CancelledError:  # the stream was ended while this one had no place yet
                answer.cancel()
                raise
        await answers.put(None)

    async def _answer_streamed(self, payload: bytes, context: Context) -> bytes:
        result = await self._infer(payload, context, streamed=True)
        if isinstance(result, bytes):
            return streamed(result)
        refusal, request_id = result
        response = inference.ModelStreamInferResponse(error_message=refusal.details)
        response.infer_response.id = request_id
        return response.SerializeToString()

    async def _infer(self, payload: bytes, context: Context, *, streamed: bool) -> Result:
        """Begin a call and wait for its end; where its caller goes away, its request is given up."""
        call = _LoopCall(self._results, context, self._caller_metadata)
        pending = self._inference.begin(payload, call, context.time_remaining(), streamed=streamed)
        if not self._wake_up_is_due:  # once for all calls that came together, so that they run together
            self._wake_up_is_due = True
            self._loop.call_soon(self._wake_up)
        try:
            return await call.future
        except asyncio.CancelledError:
            if pending is not None:
                pending.cancel()
            raise

    def _wake_up(self) -> None:
        self._wake_up_is_due = False
        self._wake_engine()


class _LoopCall:
    """A call that a task of a loop waits for."""

    __slots__ = ("_caller_metadata", "_context", "_results", "future")

    def __init__(self, results: "_Results", context: Context, caller_metadata: str | None) -> None:
        self._results = results
        self._context, self._caller_metadata = context, caller_metadata
        self.future = results.new_future()

    @property
    def caller(self) -> str:
        metadata = self._context.invocation_metadata() or ()
        return caller_of(self._context.peer(), metadata, self._caller_metadata)

    def answer(self, response: bytes) -> None:
        self._results.set(self.future, response)

    def refuse(self, refusal: Refusal, request_id: str) -> None:
        self._results.set(self.future, (refusal, request_id))


class _Results:
    """Hands results to the futures of a loop, from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._told: deque[tuple[asyncio.Future[Result], Result]] = deque()
        self._wake_up_asked = False

    def new_future(self) -> "asyncio.Future[Result]":
        return self._loop.create_future()

    def set(self, future: "asyncio.Future[Result]", result: Result) -> None:
        if threading.get_ident() == self._thread:
            _set(future, result)
            return
        self._told.append((future, result))
        if not self._wake_up_asked:
            self._wake_up_asked = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._set_told)

    def _set_told(self) -> None:
        self._wake_up_asked = False  # first: what is told from now on asks again
        while self._told:
            _set(*self._told.popleft())


def _set(future: "asyncio.Future[Result]", result: Result) -> None:
    if not future.done():  # else its task was cancelled
        future.set_result(result)
