"""A typed client of offramp.v1.Training: `TrainingClient(address).start("digits", {"schedule.epochs": 5})`.

Jobs, recipes and events are the messages of protos/training.proto (`serving.api.wire.training`).
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TypeAlias, Union

import grpc

from serving.api.wire import TRAINING_SERVICE, training
from serving.client.connection import Connection, Timeout
from serving.errors import InvalidRequest, JobNotFound, OfframpError

CANCEL_SECONDS = 60.0
"""Longest wait for the end of a cancelled job; the server kills it after 30 s."""
RECIPES_SECONDS = 150.0
"""Longest wait for the first list of recipes, for which the server imports PyTorch."""
START_SECONDS = RECIPES_SECONDS + 70.0
"""Longest wait for the start of a first job: the server lists recipes, then waits 60 s for training."""

OverrideValue: TypeAlias = Union[bool, int, float, str, Sequence["OverrideValue"], None]  # noqa: UP007 - recursive


class TrainingClient(Connection):
    """A connection that starts, watches and stops training jobs. Raises the errors of `serving.errors`."""

    services = (TRAINING_SERVICE,)

    def recipes(self) -> list[training.Recipe]:
        """Return the recipes that can be trained, with their settings."""
        request = training.ListRecipesRequest()
        response = self._call(
            "ListRecipes", request, training.ListRecipesResponse, timeout=Timeout(RECIPES_SECONDS)
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
        """Start a job and wait until it trains. The job continues when this client disconnects.

        overrides: values by the key of the setting. model: the name to publish under; empty for the recipe's.
        serve: whether the server loads the version as soon as it is published.
        """
        values = {key: encode_override(key, value) for key, value in (overrides or {}).items()}
        request = training.StartRequest(recipe=recipe, model=model, overrides=values, serve=serve)
        return self._call("Start", request, training.Job, timeout=Timeout(START_SECONDS))

    def resume(self, job_id: str) -> training.Job:
        """Resume an interrupted or failed job."""
        return self._call("Resume", training.JobRequest(id=job_id), training.Job)

    def cancel(self, job_id: str) -> training.Job:
        """Stop a job and remove its files. Its record is kept, and it cannot be resumed."""
        request = training.JobRequest(id=job_id)
        return self._call("Cancel", request, training.Job, timeout=Timeout(CANCEL_SECONDS))

    def job(self, job_id: str) -> training.Job:
        """Return the current state of a job."""
        return self._call("Get", training.JobRequest(id=job_id), training.Job)

    def jobs(self) -> list[training.Job]:
        """Return the jobs, the latest first."""
        return list(self._call("List", training.ListRequest(), training.ListResponse).jobs)

    def watch(self, job_id: str, after_event: int = 0) -> Generator[training.Event, None, None]:
        """Yield the events of a job after a number. The last one has the job's final state."""
        request = training.WatchRequest(id=job_id, after_event=after_event)
        return self._stream("Watch", request, training.Event)

    def logs(self, job_id: str) -> Iterator[str]:
        """Yield the output of a job until the job ends."""
        for log in self._stream("Logs", training.JobRequest(id=job_id), training.LogText):
            yield log.text

    def _error(self, error: grpc.RpcError, suffix: str = "") -> OfframpError:
        raised = super()._error(error, suffix)
        return JobNotFound(str(raised)) if error.code() is grpc.StatusCode.NOT_FOUND else raised


def encode_override(key: str, value: OverrideValue) -> training.Value:
    """Encode the value of an override as a message; raise InvalidRequest for a type without one."""
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
            values = [encode_override(key, item) for item in value]
            return training.Value(list_value=training.ValueList(values=values))
    raise InvalidRequest(
        f'override "{key}": expected a number, text, true, false, null or a list, got {value!r}'
    )
