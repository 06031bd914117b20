"""The Open Inference Protocol's servicer without inference: readiness, descriptions and statistics.

Follows KServe's v2 protocol as Triton implements it.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import grpc

from serving.api.interceptors import CountRpc, guarded, unsupported
from serving.api.model_config import model_config, model_metadata, operating_point_state
from serving.api.places import Places
from serving.api.wire import INFERENCE_SERVICE, inference, service_rpcs, snake_case
from serving.engine.version import ServedVersion
from serving.errors import InvalidRequest, ModelNotFound
from serving.repository.repository import ModelRepository, parse_version

Context: TypeAlias = grpc.aio.ServicerContext

SERVER_NAME = "offramp"
EXTENSIONS = ("model_configuration", "parameters", "statistics")
"""The repository extension is not listed because load and unload are not supported."""

INFERENCE_RPCS = {"ModelInfer", "ModelStreamInfer"}
"""RPCs that the front ends handle themselves."""

LIMITED_RPCS = {"ModelStatistics", "RepositoryIndex"}
"""RPCs with a limit on calls in progress. The others need no limit because they answer immediately."""

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


class OpenInference:
    """The servicer of inference.GRPCInferenceService, without its inference RPCs."""

    def __init__(
        self,
        repository: ModelRepository[ServedVersion],
        is_ready: Callable[[], bool],
        *,
        version: str,
        device: str,
        front_end: str,
    ) -> None:
        """Set what the descriptions report. is_ready: whether the whole server is ready."""
        self._repository = repository
        self._is_ready = is_ready
        self._version = version
        self._device = device
        self._front_end = front_end

    def handlers(self, places: Places, count: CountRpc) -> dict[str, grpc.RpcMethodHandler]:
        """Return the handlers by RPC name, without the inference RPCs.

        places: limits the calls of LIMITED_RPCS. count: called when a call ends.
        """
        handlers = {
            rpc.name: grpc.unary_unary_rpc_method_handler(
                guarded(
                    rpc.name,
                    getattr(self, snake_case(rpc.name)),
                    rpc.request,
                    places if rpc.name in LIMITED_RPCS else None,
                    partial(count, f"{INFERENCE_SERVICE}/{rpc.name}"),
                ),
                response_serializer=rpc.response.SerializeToString,
            )
            for rpc in service_rpcs(INFERENCE_SERVICE)
            if rpc.name not in INFERENCE_RPCS
        }
        unsupported_handlers = {
            name: unsupported(
                name,
                f"{name} is not offered by this server",
                partial(count, f"{INFERENCE_SERVICE}/{name}"),
            )
            for name in UNSUPPORTED
        }
        return {**handlers, **unsupported_handlers}

    async def server_live(self, _: inference.ServerLiveRequest, __: Context) -> inference.ServerLiveResponse:
        """Report that the process is alive."""
        return inference.ServerLiveResponse(live=True)

    async def server_ready(
        self, _: inference.ServerReadyRequest, __: Context
    ) -> inference.ServerReadyResponse:
        """Report whether new calls are accepted, as `/readyz` does."""
        return inference.ServerReadyResponse(ready=self._is_ready())

    async def model_ready(
        self, request: inference.ModelReadyRequest, _: Context
    ) -> inference.ModelReadyResponse:
        """Report whether a model is ready. For an unknown model report not ready, without an error."""
        try:
            version = self._repository.get(request.name, parse_version(request.version))
        except ModelNotFound:
            return inference.ModelReadyResponse(ready=False)
        return inference.ModelReadyResponse(ready=self._is_ready() and version.ready)

    async def server_metadata(
        self, _: inference.ServerMetadataRequest, __: Context
    ) -> inference.ServerMetadataResponse:
        """Return the server's name, version, extensions and front end."""
        return inference.ServerMetadataResponse(
            name=SERVER_NAME, version=self._version, extensions=EXTENSIONS, front_end=self._front_end
        )

    async def model_metadata(
        self, request: inference.ModelMetadataRequest, _: Context
    ) -> inference.ModelMetadataResponse:
        """Return a model's tensors and operating points."""
        version = self._repository.get(request.name, parse_version(request.version))
        versions = self._repository.versions(request.name)
        return model_metadata(version.manifest, versions, version.point_states())

    async def model_config(
        self, request: inference.ModelConfigRequest, _: Context
    ) -> inference.ModelConfigResponse:
        """Return a model's configuration in Triton's format."""
        version = self._repository.get(request.name, parse_version(request.version))
        config = model_config(version.manifest, version.max_batch_size, self._device)
        return inference.ModelConfigResponse(config=config)

    async def model_statistics(
        self, request: inference.ModelStatisticsRequest, _: Context
    ) -> inference.ModelStatisticsResponse:
        """Return the totals of one model's served versions, or of all models."""
        requested_number = parse_version(request.version)
        response = inference.ModelStatisticsResponse()
        for name, number, version in self._repository.served():
            if request.name in {"", name} and requested_number in {None, number}:
                response.model_stats.append(_statistics(name, number, version))
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


def _statistics(name: str, number: int, version: ServedVersion) -> inference.ModelStatistics:
    totals = version.observation.statistics
    durations = {
        field: inference.StatisticDuration(count=count, ns=nanoseconds)
        for field, (count, nanoseconds) in totals.durations().items()
    }
    return inference.ModelStatistics(
        name=name,
        version=str(number),
        last_inference=totals.last_inference_milliseconds,
        inference_count=totals.rows,
        execution_count=totals.first_stage_runs,
        inference_stats=inference.InferStatistics(**durations),
        operating_points=map(operating_point_state, version.point_states()),
    )
