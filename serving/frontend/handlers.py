"""The handlers of ModelInfer and ModelStreamInfer on a grpc.aio server. They take and return wire bytes.

The next request of a stream is read only when fewer than MAX_UNWRITTEN of its answers are unwritten. A
request without room waits in the engine, and its stream waits with it. So a stream whose client does not
read holds at most two requests or answers, and the bytes that gRPC reads ahead. A drain ends every stream
with UNAVAILABLE after its admitted requests are answered.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from serving.api.answer_form import streamed
from serving.api.inference import Inference
from serving.api.interceptors import guarded
from serving.api.places import Places
from serving.api.request_id import trailers
from serving.api.wire import inference
from serving.config import ServerSettings
from serving.frontend.loop import Context, InferenceLoop
from serving.lifecycle.readiness import Readiness

MAX_UNWRITTEN = 2
"""Maximum number of requests of one stream whose answers are not written yet."""
AnswerQueue = asyncio.Queue[asyncio.Task[bytes | None] | None]
"""The answers of one stream in order; None at its end."""


class InferenceHandlers:
    """The inference handlers. Construct them in the event loop that runs the calls."""

    def __init__(
        self,
        inference_service: Inference,
        wake_engine: Callable[[], None],
        readiness: Readiness,
        settings: ServerSettings,
        caller_metadata: str | None = None,
    ) -> None:
        """Start without calls. caller_metadata: see `serving.frontend.callers`."""
        self._loop = InferenceLoop(inference_service, wake_engine, caller_metadata)
        self._calls = Places("calls", settings.max_concurrent_rpcs)
        self._streams = Places("streams", settings.max_streams)
        self._reading: set[asyncio.Task[None]] = set()
        self._readiness = readiness

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Return the handlers by RPC name."""
        return {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(
                guarded("ModelInfer", self._model_infer, places=self._calls)
            ),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                guarded("ModelStreamInfer", self._model_stream_infer, places=self._streams)
            ),
        }

    def drain(self) -> None:
        """Stop reading all streams. Each ends with UNAVAILABLE after its admitted requests are answered."""
        for reading in self._reading:
            reading.cancel()

    async def _model_infer(self, payload: bytes, context: Context) -> bytes:
        """Answer a ModelInferRequest."""
        result = await self._loop.infer(payload, context, streamed=False)
        if isinstance(result, bytes):
            return result
        refusal, request_id = result
        metadata = (*refusal.trailers, *trailers(request_id))
        # gRPC keeps the exception that ends a call, and with it this frame. An id may be megabytes long.
        del payload, result, request_id
        await context.abort(refusal.status, refusal.details, metadata)
        raise AssertionError("abort returned")

    async def _model_stream_infer(self, payloads: AsyncIterator[bytes], context: Context) -> None:
        """Answer the requests of a stream in order; an error is sent as the answer to its request."""
        self._readiness.check()
        answers = AnswerQueue()
        unwritten = asyncio.Semaphore(MAX_UNWRITTEN)
        reading = asyncio.create_task(self._read(payloads, context, answers, unwritten))
        self._reading.add(reading)
        reading.add_done_callback(lambda _: answers.put_nowait(None))
        try:
            while (answer := await answers.get()) is not None:
                response = await answer
                if response is None:
                    raise self._readiness.refusal()
                await context.write(response)
                unwritten.release()
            if reading.cancelled():
                raise self._readiness.refusal()
        finally:
            self._reading.discard(reading)
            reading.cancel()
            while not answers.empty():
                if (task := answers.get_nowait()) is not None:
                    task.cancel()

    async def _read(
        self,
        payloads: AsyncIterator[bytes],
        context: Context,
        answers: AnswerQueue,
        unwritten: asyncio.Semaphore,
    ) -> None:
        """Read a stream to its end, at most MAX_UNWRITTEN requests ahead of its answers."""
        await unwritten.acquire()
        async for payload in payloads:
            answers.put_nowait(asyncio.create_task(self._answer(payload, context)))
            del payload  # the task references it as long as needed
            await unwritten.acquire()

    async def _answer(self, payload: bytes, context: Context) -> bytes | None:
        """Return the answer to one request of a stream; None if a drain refused the request."""
        result = await self._loop.infer(payload, context, streamed=True)
        if isinstance(result, bytes):
            return streamed(result)
        refusal, request_id = result
        if not self._readiness.ready and refusal.status is grpc.StatusCode.UNAVAILABLE:
            return None
        response = inference.ModelStreamInferResponse(error_message=refusal.details)
        response.infer_response.id = request_id
        return response.SerializeToString()
