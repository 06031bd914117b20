"""The servicer of offramp.v1.Training: decode, ask the jobs, encode, and no logic of its own."""

from typing import TypeAlias

import grpc

from serving.api.interceptors import guarded, unsupported
from serving.api.places import Places
from serving.api.training_messages import decode_overrides, encode_event, encode_job, encode_recipe
from serving.api.wire import TRAINING_SERVICE, service_rpcs, snake_case, training
from serving.jobs.jobs import Jobs

Context: TypeAlias = grpc.aio.ServicerContext


def refusing_handler(why: str) -> grpc.GenericRpcHandler:
    """Return handlers that refuse every call of the service, with the reason."""
    refused = f"training is not offered by this server: {why}"
    names = [rpc.name for streams in (False, True) for rpc in service_rpcs(TRAINING_SERVICE, streams=streams)]
    handlers = {name: unsupported(name, refused) for name in names}
    return grpc.method_handlers_generic_handler(TRAINING_SERVICE, handlers)


class Training:
    """Answers offramp.v1.Training from jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def generic_handler(self, places: Places) -> grpc.GenericRpcHandler:
        """Return the service's handlers, ready to be added to a server; its streams take places."""
        handlers = {}
        for streams, made in (
            (False, grpc.unary_unary_rpc_method_handler),
            (True, grpc.unary_stream_rpc_method_handler),
        ):
            for rpc in service_rpcs(TRAINING_SERVICE, streams=streams):
                handler = guarded(
                    rpc.name, getattr(self, snake_case(rpc.name)), rpc.request, places if streams else None
                )
                handlers[rpc.name] = made(handler, response_serializer=rpc.response.SerializeToString)
        return grpc.method_handlers_generic_handler(TRAINING_SERVICE, handlers)

    async def list_recipes(self, _: training.ListRecipesRequest, __: Context) -> training.ListRecipesResponse:
        """List what can be trained, with every setting."""
        recipes = (await self._jobs.recipes()).recipes
        return training.ListRecipesResponse(recipes=map(encode_recipe, recipes))

    async def start(self, request: training.StartRequest, _: Context) -> training.Job:
        """Start a job."""
        overrides = decode_overrides(request.overrides)
        return encode_job(
            await self._jobs.start(request.recipe, request.model, overrides, serve=request.serve)
        )

    async def resume(self, request: training.JobRequest, _: Context) -> training.Job:
        """Let a job go on."""
        return encode_job(await self._jobs.resume(request.id))

    async def cancel(self, request: training.JobRequest, _: Context) -> training.Job:
        """Stop a job for good."""
        return encode_job(await self._jobs.cancel(request.id))

    async def get(self, request: training.JobRequest, _: Context) -> training.Job:
        """Return a job as it stands."""
        return encode_job(self._jobs.get(request.id))

    async def list(self, _: training.ListRequest, __: Context) -> training.ListResponse:
        """List the jobs, the latest first."""
        return training.ListResponse(jobs=map(encode_job, self._jobs.latest()))

    async def watch(self, request: training.WatchRequest, context: Context) -> None:
        """Stream a job's events, then its state."""
        async for event in self._jobs.watch(request.id, request.after_event):
            await context.write(encode_event(event))

    async def logs(self, request: training.JobRequest, context: Context) -> None:
        """Stream what a job's process writes."""
        async for text in self._jobs.logs(request.id):
            await context.write(training.LogText(text=text))
