"""The servicer of offramp.v1.Training: decodes requests, calls the jobs, and encodes the results."""

from functools import partial
from typing import TypeAlias

import grpc

from serving.api.interceptors import CountRpc, guarded, unsupported
from serving.api.places import Places
from serving.api.training_messages import decode_overrides, encode_event, encode_job, encode_recipe
from serving.api.wire import TRAINING_SERVICE, service_rpcs, snake_case, training
from serving.jobs.jobs import Jobs
from serving.jobs.watching import read_log, watch

Context: TypeAlias = grpc.aio.ServicerContext


def refusing_handler(reason: str, count: CountRpc) -> grpc.GenericRpcHandler:
    """Return handlers that refuse every call of the service with UNIMPLEMENTED and the reason.

    count: called when a call ends.
    """
    refusal = f"training is not offered by this server: {reason}"
    names = [rpc.name for streams in (False, True) for rpc in service_rpcs(TRAINING_SERVICE, streams=streams)]
    handlers = {
        name: unsupported(name, refusal, partial(count, f"{TRAINING_SERVICE}/{name}")) for name in names
    }
    return grpc.method_handlers_generic_handler(TRAINING_SERVICE, handlers)


class Training:
    """The RPCs of offramp.v1.Training."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def generic_handler(self, places: Places, count: CountRpc) -> grpc.GenericRpcHandler:
        """Return the service's handlers.

        places: the limit on open streams. count: called when a call ends.
        """
        handlers = {}
        for streams, make_handler in (
            (False, grpc.unary_unary_rpc_method_handler),
            (True, grpc.unary_stream_rpc_method_handler),
        ):
            for rpc in service_rpcs(TRAINING_SERVICE, streams=streams):
                handler = guarded(
                    rpc.name,
                    getattr(self, snake_case(rpc.name)),
                    rpc.request,
                    places if streams else None,
                    partial(count, f"{TRAINING_SERVICE}/{rpc.name}"),
                )
                handlers[rpc.name] = make_handler(handler, response_serializer=rpc.response.SerializeToString)
        return grpc.method_handlers_generic_handler(TRAINING_SERVICE, handlers)

    async def list_recipes(self, _: training.ListRecipesRequest, __: Context) -> training.ListRecipesResponse:
        """Return all recipes with their settings."""
        recipes = (await self._jobs.recipes()).recipes
        return training.ListRecipesResponse(recipes=map(encode_recipe, recipes))

    async def start(self, request: training.StartRequest, _: Context) -> training.Job:
        """Start a job."""
        overrides = decode_overrides(request.overrides)
        return encode_job(
            await self._jobs.start(request.recipe, request.model, overrides, serve=request.serve)
        )

    async def resume(self, request: training.JobRequest, _: Context) -> training.Job:
        """Resume an interrupted or failed job."""
        return encode_job(await self._jobs.resume(request.id))

    async def cancel(self, request: training.JobRequest, _: Context) -> training.Job:
        """Stop a job; it cannot be resumed."""
        return encode_job(await self._jobs.cancel(request.id))

    async def get(self, request: training.JobRequest, _: Context) -> training.Job:
        """Return a job."""
        return encode_job(self._jobs.table.get(request.id))

    async def list(self, _: training.ListRequest, __: Context) -> training.ListResponse:
        """Return all jobs, the latest first."""
        return training.ListResponse(jobs=map(encode_job, self._jobs.table.latest()))

    async def watch(self, request: training.WatchRequest, context: Context) -> None:
        """Stream a job's events, then the ended job."""
        async for event in watch(self._jobs.table, request.id, request.after_event):
            await context.write(encode_event(event))

    async def logs(self, request: training.JobRequest, context: Context) -> None:
        """Stream the text that a job's process writes."""
        async for text in read_log(self._jobs.table, request.id):
            await context.write(training.LogText(text=text))
