"""The Open Inference Protocol's servicer, all but inference itself: readiness, descriptions, statistics.

Follows KServe's v2 protocol in the shape that Triton gives it. Has no logic of its own: which versions
are served is the repository's business, what they do the engine's.
"""

import asyncio
from typing import TypeAlias

import grpc

from serving.api.interceptors import guarded, unsupported
from serving.api.model_config import model_config, model_metadata, operating_point_state
from serving.api.places import Places
from serving.api.wire import INFERENCE_SERVICE, inference, service_rpcs, snake_case
from serving.engine.engine import Engine
from serving.engine.version import ServedVersion
from serving.errors import InvalidRequest, ModelNotFound
from serving.readiness import Readiness
from serving.repository.repository import ModelRepository, parse_version

Context: TypeAlias = grpc.aio.ServicerContext

SERVER_NAME = "offramp"
EXTENSIONS = ("model_configuration", "parameters", "statistics")
"""Only what works here; the repository extension is left out while load and unload are not offered."""

INFERENCE_RPCS = {"ModelInfer", "ModelStreamInfer"}
"""Answered by the front end."""

LIMITED_RPCS = {"ModelStatistics", "RepositoryIndex"}
"""Those that take a place; the others answer at once."""

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
    """Answers inference.GRPCInferenceService, but its inference RPCs, from a repository of versions."""

    def __init__(
        self,
        repository: ModelRepository[ServedVersion],
        readiness: Readiness,
        engine: Engine,
        *,
        version: str,
        device: str,
        front_end: str,
    ) -> None:
        self._repository = repository
        self._readiness = readiness
        self._engine = engine
        self._version = version
        self._device = device
        self._front_end = front_end

    def handlers(self, places: Places) -> dict[str, grpc.RpcMethodHandler]:
        """Return the service's handlers by RPC; the front end adds those of inference.

        places: those that statistics and the index take.
        """
        handlers = {
            rpc.name: grpc.unary_unary_rpc_method_handler(
                guarded(
                    rpc.name,
                    getattr(self, snake_case(rpc.name)),
                    rpc.request,
                    places if rpc.name in LIMITED_RPCS else None,
                ),
                response_serializer=rpc.response.SerializeToString,
            )
            for rpc in service_rpcs(INFERENCE_SERVICE)
            if rpc.name not in INFERENCE_RPCS
        }
        refused = {name: unsupported(name, f"{name} is not offered by this server") for name in UNSUPPORTED}
        return {**handlers, **refused}

    @property
    def _ready(self) -> bool:
        return self._readiness.ready and self._engine.alive

    async def server_live(self, _: inference.ServerLiveRequest, __: Context) -> inference.ServerLiveResponse:
        """Report that the process answers."""
        return inference.ServerLiveResponse(live=True)

    async def server_ready(
        self, _: inference.ServerReadyRequest, __: Context
    ) -> inference.ServerReadyResponse:
        """Report whether new calls are taken."""
        return inference.ServerReadyResponse(ready=self._ready)

    async def model_ready(
        self, request: inference.ModelReadyRequest, _: Context
    ) -> inference.ModelReadyResponse:
        """Report whether a model answers; an unknown one is not ready, which is no error."""
        try:
            version = self._repository.get(request.name, parse_version(request.version))
        except ModelNotFound:
            return inference.ModelReadyResponse(ready=False)
        return inference.ModelReadyResponse(ready=self._ready and version.ready)

    async def server_metadata(
        self, _: inference.ServerMetadataRequest, __: Context
    ) -> inference.ServerMetadataResponse:
        """Name the server and the extensions that work."""
        return inference.ServerMetadataResponse(
            name=SERVER_NAME, version=self._version, extensions=EXTENSIONS, front_end=self._front_end
        )

    async def model_metadata(
        self, request: inference.ModelMetadataRequest, _: Context
    ) -> inference.ModelMetadataResponse:
        """Describe a model's tensors."""
        version = self._repository.get(request.name, parse_version(request.version))
        versions = self._repository.versions(request.name)
        return model_metadata(version.manifest, versions, version.point_states())

    async def model_config(
        self, request: inference.ModelConfigRequest, _: Context
    ) -> inference.ModelConfigResponse:
        """Describe a model as Triton's configuration does."""
        version = self._repository.get(request.name, parse_version(request.version))
        config = model_config(version.manifest, version.max_batch_size, self._device)
        return inference.ModelConfigResponse(config=config)

    async def model_statistics(
        self, request: inference.ModelStatisticsRequest, _: Context
    ) -> inference.ModelStatisticsResponse:
        """Return running totals of one model's served versions, or of all."""
        wanted = parse_version(request.version)
        response = inference.ModelStatisticsResponse()
        for name, number, version in self._repository.served():
            if request.name in {"", name} and wanted in {None, number}:
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
