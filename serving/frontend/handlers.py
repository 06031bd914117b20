"""The handlers of ModelInfer and ModelStreamInfer on a grpc.aio server; they take and return wire bytes.

A stream is read only while fewer than MAX_UNWRITTEN of its answers are unwritten. A request that finds
no room waits in the engine, and the stream with it. So a stream whose client reads nothing holds two
requests or answers, and what gRPC reads ahead. A drain ends every stream with UNAVAILABLE, after the
answers of the requests that were admitted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from serving.api.answer_form import streamed
from serving.api.inference import Inference
from serving.api.interceptors import guarded
from serving.api.places import Places
from serving.api.wire import inference
from serving.config import ServerSettings
from serving.frontend.loop import Context, InferenceLoop
from serving.readiness import Readiness

MAX_UNWRITTEN = 2
"""Requests of one stream whose answers are not written yet; beyond it the stream is not read."""
Answers = asyncio.Queue[asyncio.Task[bytes | None] | None]
"""The answers of one stream in their order; None at its end."""


class InferenceHandlers:
    """Belongs to the loop that runs where it is made."""

    def __init__(
        self,
        inference_service: Inference,
        wake_engine: Callable[[], None],
        readiness: Readiness,
        settings: ServerSettings,
        caller_metadata: str | None = None,
    ) -> None:
        """Take the metadata key that names callers, where there is one."""
        self._loop = InferenceLoop(inference_service, wake_engine, caller_metadata)
        self._calls = Places("calls", settings.max_concurrent_rpcs)
        self._streams = Places("streams", settings.max_streams)
        self._reading: set[asyncio.Task[None]] = set()
        self._readiness = readiness

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Return the handlers by RPC."""
        return {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(
                guarded("ModelInfer", self._model_infer, places=self._calls)
            ),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                guarded("ModelStreamInfer", self._model_stream_infer, places=self._streams)
            ),
        }

    def drain(self) -> None:
        """Read no stream any more: each ends with UNAVAILABLE once its admitted requests are answered."""
        for reading in self._reading:
            reading.cancel()

    async def _model_infer(self, payload: bytes, context: Context) -> bytes:
        """Answer a ModelInferRequest's rows."""
        result = await self._loop.infer(payload, context, streamed=False)
        if isinstance(result, bytes):
            return result
        refusal = result[0]
        del payload, result  # gRPC keeps what ends a call, and with it this frame
        await context.abort(*refusal)
        raise AssertionError("abort returned")

    async def _model_stream_infer(self, payloads: AsyncIterator[bytes], context: Context) -> None:
        """Answer the requests of a stream in their order; an error is the answer of its request."""
        self._readiness.check()
        answers = Answers()
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
                if (left := answers.get_nowait()) is not None:
                    left.cancel()

    async def _read(
        self,
        payloads: AsyncIterator[bytes],
        context: Context,
        answers: Answers,
        unwritten: asyncio.Semaphore,
    ) -> None:
        """Read a stream to its end, never further ahead of its answers than it may be."""
        await unwritten.acquire()
        async for payload in payloads:
            answers.put_nowait(asyncio.create_task(self._answer(payload, context)))
            del payload  # its request holds it as long as it must
            await unwritten.acquire()

    async def _answer(self, payload: bytes, context: Context) -> bytes | None:
        """Return a stream's answer to one request; None where a drain left it without one."""
        result = await self._loop.infer(payload, context, streamed=True)
        if isinstance(result, bytes):
            return streamed(result)
        refusal, request_id = result
        if not self._readiness.ready and refusal.status is grpc.StatusCode.UNAVAILABLE:
            return None
        response = inference.ModelStreamInferResponse(error_message=refusal.details)
        response.infer_response.id = request_id
        return response.SerializeToString()
