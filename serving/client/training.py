"""A typed client of offramp.v1.Training: `TrainingClient(address).start("digits", {"schedule.epochs": 5})`.

Jobs, recipes and events are the contract's own messages (`serving.api.wire.training`). Needs no more
than `serving.client` does.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TypeAlias, Union

import grpc

from serving.api.wire import TRAINING_SERVICE, training
from serving.client.connection import Connection
from serving.errors import InvalidRequest, JobNotFound, OfframpError

CANCEL_SECONDS = 60.0
"""How long a cancelled job may take to be over: the server kills it after 30 s."""
RECIPES_SECONDS = 150.0
"""How long the server may take to list recipes for the first time."""
START_SECONDS = RECIPES_SECONDS + 70.0
"""How long it may take to start a first job: it lists recipes, and waits 60 s until the job trains."""

OverrideValue: TypeAlias = Union[bool, int, float, str, Sequence["OverrideValue"], None]  # noqa: UP007 - recursive


class TrainingClient(Connection):
    """Starts, watches and stops training jobs; raises the errors of `serving.errors`."""

    services = (TRAINING_SERVICE,)

    def recipes(self) -> list[training.Recipe]:
        """List what can be trained, with every setting."""
        request = training.ListRecipesRequest()
        response = self._call(
            "ListRecipes", request, training.ListRecipesResponse, timeout_seconds=RECIPES_SECONDS
        )
        return list(response.recipes)

    def start(
        self,
        recipe: str,
        overrides: Mapping[str, OverrideValue] | None = None,
        *,
        model: str = "",
        serve: bool = False,
    ) -> training.Job:
        """Start a job and wait until it trains; it goes on when this client is gone.

        overrides by a setting's key; model: the name to publish under, empty for the recipe's own;
        serve: whether the server takes up the version as soon as it is published.
        """
        values = {key: encoded(key, value) for key, value in (overrides or {}).items()}
        request = training.StartRequest(recipe=recipe, model=model, overrides=values, serve=serve)
        return self._call("Start", request, training.Job, timeout_seconds=START_SECONDS)

    def resume(self, job_id: str) -> training.Job:
        """Let an interrupted or failed job go on."""
        return self._call("Resume", training.JobRequest(id=job_id), training.Job)

    def cancel(self, job_id: str) -> training.Job:
        """Stop a job for good: only its record stays."""
        request = training.JobRequest(id=job_id)
        return self._call("Cancel", request, training.Job, timeout_seconds=CANCEL_SECONDS)

    def job(self, job_id: str) -> training.Job:
        """Ask how a job stands."""
        return self._call("Get", training.JobRequest(id=job_id), training.Job)

    def jobs(self) -> list[training.Job]:
        """List the jobs, the latest first."""
        return list(self._call("List", training.ListRequest(), training.ListResponse).jobs)

    def watch(self, job_id: str, after_event: int = 0) -> Generator[training.Event, None, None]:
        """Return a job's events above a number as they come, the last one with its state; `close` ends it."""
        request = training.WatchRequest(id=job_id, after_event=after_event)
        return self._stream("Watch", request, training.Event)

    def logs(self, job_id: str) -> Iterator[str]:
        """Yield what a job's process writes, until the job is over."""
        for piece in self._stream("Logs", training.JobRequest(id=job_id), training.LogText):
            yield piece.text

    def _error(self, error: grpc.RpcError, more: str = "") -> OfframpError:
        raised = super()._error(error, more)
        return JobNotFound(str(raised)) if error.code() is grpc.StatusCode.NOT_FOUND else raised


def encoded(key: str, value: OverrideValue) -> training.Value:
    """Return an override its message; raise InvalidRequest for what the contract has no word for."""
    match value:
        case None:
            return training.Value(null_value=training.NULL_VALUE)
        case bool():
            return training.Value(bool_value=value)
        case int():
            if not -(2**63) <= value < 2**63:
                raise InvalidRequest(f'override "{key}": expected an integer of 64 bits, got {value}')
            return training.Value(integer_value=value)
        case float():
            return training.Value(number_value=value)
        case str():
            return training.Value(string_value=value)
        case list() | tuple():
            values = [encoded(key, each) for each in value]
            return training.Value(list_value=training.ValueList(values=values))
    raise InvalidRequest(
        f'override "{key}": expected a number, text, true, false, null or a list, got {value!r}'
    )
