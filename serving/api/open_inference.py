"""The Open Inference Protocol's servicer: decode, submit, encode, and no logic of its own.

Follows KServe's v2 protocol in the shape that Triton gives it. Which rows run when, and where they
leave, is the engine's business; which versions are served, the repository's.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

from serving.api.answer_form import streamed
from serving.api.inference_call import InferenceCall
from serving.api.interceptors import guarded, parse, refuse, unsupported
from serving.api.model_config import model_config, model_metadata, operating_point_state
from serving.api.wire import INFERENCE_SERVICE, inference, service_rpcs, snake_case
from serving.engine.engine import Engine
from serving.errors import InvalidRequest, ModelNotFound
from serving.loop_host import LoopHost
from serving.metrics import Metrics
from serving.readiness import Readiness
from serving.repository.repository import ModelRepository

Context: TypeAlias = grpc.aio.ServicerContext

SERVER_NAME = "offramp"
EXTENSIONS = ("model_configuration", "parameters", "statistics")
"""Only what works here; the repository extension is left out while load and unload are not offered."""

MAX_STREAMED = 256
"""Requests of one stream that may be under way; beyond it the stream is not read."""

ENCODED = {"ModelInfer"}
"""RPCs whose handlers give bytes."""

UNSUPPORTED = (
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
)


def model_version(text: str) -> int | None:
    """Read a version string; None where it is empty, which means the highest."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InvalidRequest(f"failed to get model version from specified version string '{text}'")
    return int(text)


class OpenInference:
    """Answers inference.GRPCInferenceService from a repository of engines."""

    def __init__(
        self,
        repository: ModelRepository[Engine],
        readiness: Readiness,
        metrics: Metrics,
        host: LoopHost,
        *,
        version: str,
        device: str,
    ) -> None:
        self._repository = repository
        self._readiness = readiness
        self._metrics = metrics
        self._host = host
        self._version = version
        self._device = device

    def generic_handler(self) -> grpc.GenericRpcHandler:
        """Give the service's handlers, ready to be added to a server."""
        handlers = {
            rpc.name: grpc.unary_unary_rpc_method_handler(
                guarded(rpc.name, getattr(self, snake_case(rpc.name)), rpc.request),
                response_serializer=None if rpc.name in ENCODED else rpc.response.SerializeToString,
            )
            for rpc in service_rpcs(INFERENCE_SERVICE)
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self.model_stream_infer)
        handlers.update(
            {name: unsupported(name, f"{name} is not offered by this server") for name in UNSUPPORTED}
        )
        return grpc.method_handlers_generic_handler(INFERENCE_SERVICE, handlers)

    async def server_live(self, _: inference.ServerLiveRequest, __: Context) -> inference.ServerLiveResponse:
        """Say that the process answers."""
        return inference.ServerLiveResponse(live=True)

    async def server_ready(
        self, _: inference.ServerReadyRequest, __: Context
    ) -> inference.ServerReadyResponse:
        """Say whether new calls are taken."""
        return inference.ServerReadyResponse(ready=self._readiness.ready)

    async def model_ready(
        self, request: inference.ModelReadyRequest, _: Context
    ) -> inference.ModelReadyResponse:
        """Say whether a model answers; an unknown one is not ready, which is no error."""
        try:
            engine = self._repository.get(request.name, model_version(request.version))
        except ModelNotFound:
            return inference.ModelReadyResponse(ready=False)
        return inference.ModelReadyResponse(ready=self._readiness.ready and engine.ready)

    async def server_metadata(
        self, _: inference.ServerMetadataRequest, __: Context
    ) -> inference.ServerMetadataResponse:
        """Name the server and the extensions that work."""
        return inference.ServerMetadataResponse(
            name=SERVER_NAME, version=self._version, extensions=EXTENSIONS
        )

    async def model_metadata(
        self, request: inference.ModelMetadataRequest, _: Context
    ) -> inference.ModelMetadataResponse:
        """Describe a model's tensors."""
        engine = self._repository.get(request.name, model_version(request.version))
        versions = self._repository.versions(request.name)
        return model_metadata(engine.manifest, versions, engine.point_states())

    async def model_config(
        self, request: inference.ModelConfigRequest, _: Context
    ) -> inference.ModelConfigResponse:
        """Describe a model as Triton's configuration does."""
        engine = self._repository.get(request.name, model_version(request.version))
        config = model_config(engine.manifest, engine.max_batch_size, self._device)
        return inference.ModelConfigResponse(config=config)

    async def model_infer(self, request: inference.ModelInferRequest, context: Context) -> bytes:
        """Answer a request's rows, with a ModelInferResponse's bytes."""
        return await self._infer(request, context, in_stream=False)

    async def model_stream_infer(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        """Answer the requests of a stream in their order, with ModelStreamInferResponses' bytes.

        They are run as they come, up to MAX_STREAMED of them ahead of the answers. An error is the
        answer of its request, and the stream goes on.
        """
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(MAX_STREAMED)
        reading = asyncio.create_task(self._read_stream(requests, context, answers))
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
        requests: AsyncIterator[bytes],
        context: Context,
        answers: "asyncio.Queue[asyncio.Task[bytes] | None]",
    ) -> None:
        async for received in requests:
            answer = asyncio.create_task(self._answer_streamed(received, context))
            try:
                await answers.put(answer)
            except asyncio.CancelledError:  # the stream was ended while this one had no place yet
                answer.cancel()
                raise
        await answers.put(None)

    async def _answer_streamed(self, received: bytes, context: Context) -> bytes:
        request = None
        try:
            request = parse("ModelStreamInfer", inference.ModelInferRequest, received)
            return streamed(await self._infer(request, context, in_stream=True))
        except Exception as error:
            _, details, _ = refuse("ModelStreamInfer", request, error)
            response = inference.ModelStreamInferResponse(error_message=details)
            response.infer_response.id = "" if request is None else request.id
            return response.SerializeToString()

    async def _infer(
        self, request: inference.ModelInferRequest, context: Context, *, in_stream: bool
    ) -> bytes:
        remaining = context.time_remaining()
        with InferenceCall(
            request, self._readiness, self._metrics, time_remaining=remaining, streamed=in_stream
        ) as call:
            version = model_version(request.model_version)
            future = call.submit(lambda: self._repository.get(request.model_name, version), self._host)
            return call.respond(await future)

    async def model_statistics(
        self, request: inference.ModelStatisticsRequest, _: Context
    ) -> inference.ModelStatisticsResponse:
        """Give running totals of one model's served versions, or of all."""
        version = model_version(request.version)
        response = inference.ModelStatisticsResponse()
        for name, number, engine in self._repository.served():
            if request.name in {"", name} and version in {None, number}:
                response.model_stats.append(_statistics(name, number, engine))
        if request.name and not response.model_stats:
            raise InvalidRequest(f"requested model '{request.name}' is not available")
        return response

    async def repository_index(
        self, request: inference.RepositoryIndexRequest, _: Context
    ) -> inference.RepositoryIndexResponse:
        """List the versions on disk with their state."""
        entries = await asyncio.to_thread(self._repository.index)
        response = inference.RepositoryIndexResponse()
        for entry in entries:
            if entry.ready or not request.ready:
                state = "READY" if entry.ready else "UNAVAILABLE"
                response.models.add(
                    name=entry.name, version=str(entry.version), state=state, reason=entry.reason
                )
        return response


def _statistics(name: str, version: int, engine: Engine) -> inference.ModelStatistics:
    totals = engine.accounts.statistics

    def duration(field: str) -> inference.StatisticDuration:
        total = getattr(totals, field)
        return inference.StatisticDuration(count=total.count, ns=total.nanoseconds)

    fields = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return inference.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=totals.last_inference_milliseconds,
        inference_count=totals.rows,
        execution_count=totals.first_stage_runs,
        inference_stats=inference.InferStatistics(**{field: duration(field) for field in fields}),
        operating_points=map(operating_point_state, engine.point_states()),
    )
