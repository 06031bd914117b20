"""Encodes jobs, events and recipes as messages of offramp.v1, and decodes callers' values."""

import json
from collections.abc import Iterable, Mapping

from serving.api.wire import training
from serving.errors import InvalidRequest, shown
from serving.jobs.events import EpochDone, Event, GenerationStarted, RunMessage, StepDone, VersionPublished
from serving.jobs.job import Job, JobState
from serving.jobs.recipes import RecipeDescription, Setting, SettingValue

STATES = {
    JobState.RUNNING: training.RUNNING,
    JobState.SUCCEEDED: training.SUCCEEDED,
    JobState.FAILED: training.FAILED,
    JobState.CANCELLED: training.CANCELLED,
    JobState.INTERRUPTED: training.INTERRUPTED,
}
KINDS = {
    "string": training.STRING,
    "integer": training.INTEGER,
    "number": training.NUMBER,
    "boolean": training.BOOLEAN,
    "list": training.LIST,
}

NULL = training.Value(null_value=training.NULL_VALUE)


def decode_overrides(values: Mapping[str, training.Value]) -> dict[str, SettingValue]:
    """Decode a request's overrides; raise InvalidRequest for one without a value."""
    return {key: _decode(key, value) for key, value in values.items()}


def _decode(key: str, value: training.Value) -> SettingValue:
    kind = value.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest(f'override "{shown(key)}": expected a value, got none')
    if kind == "null_value":
        return None
    if kind == "list_value":
        return [_decode(key, item) for item in value.list_value.values]
    decoded: SettingValue = getattr(value, kind)
    return decoded


def encode_value(value: SettingValue) -> training.Value | None:
    """Encode a value, None as None. A table, which no caller can set, is encoded as JSON."""
    if isinstance(value, bool):
        return training.Value(bool_value=value)
    if isinstance(value, int):
        return training.Value(integer_value=value)
    if isinstance(value, float):
        return training.Value(number_value=value)
    if isinstance(value, str):
        return training.Value(string_value=value)
    if isinstance(value, list):
        return training.Value(list_value=training.ValueList(values=_encode_all(value)))
    return None if value is None else training.Value(string_value=json.dumps(value))


def _encode_all(values: Iterable[SettingValue]) -> list[training.Value]:
    return [encoded for value in values if (encoded := encode_value(value)) is not None]


def encode_recipe(recipe: RecipeDescription) -> training.Recipe:
    """Encode a recipe with its settings."""
    return training.Recipe(
        name=recipe.name,
        description=recipe.description,
        needs=recipe.needs,
        settings=[_encode_setting(setting) for setting in recipe.settings],
    )


def _encode_setting(setting: Setting) -> training.Setting:
    return training.Setting(
        key=setting.key,
        kind=KINDS[setting.kind],
        default=encode_value(setting.default),
        value=encode_value(setting.value),
        choices=_encode_all(setting.choices or ()),
        minimum=setting.minimum,
        maximum=setting.maximum,
        exclusive_minimum=setting.exclusive_minimum,
        exclusive_maximum=setting.exclusive_maximum,
        nullable=setting.nullable,
        help=setting.help,
    )


def encode_job(job: Job) -> training.Job:
    """Encode a job's record."""
    return training.Job(
        id=job.id,
        recipe=job.recipe,
        model=job.model,
        overrides={key: encode_value(value) or NULL for key, value in job.overrides.items()},
        state=STATES[job.state],
        serve=job.serve,
        created_seconds=job.created_seconds,
        started_seconds=job.started_seconds,
        ended_seconds=job.ended_seconds,
        version=job.version,
        chosen_generation=job.chosen_generation,
        error=job.error,
        progress=training.Progress(**job.progress.model_dump()),
    )


def encode_event(event: Event | Job) -> training.Event:
    """Encode an event. A job becomes the last event of a stream, which holds the job's state."""
    if isinstance(event, Job):
        return training.Event(
            number=event.progress.last_event,
            time_seconds=event.ended_seconds or event.started_seconds,
            state=training.StateEvent(job=encode_job(event)),
        )
    message = training.Event(number=event.number, time_seconds=event.time.timestamp())
    fields = event.model_dump(exclude={"number", "time", "kind"})
    match event:
        case GenerationStarted():
            message.generation.CopyFrom(training.GenerationEvent(**fields))
        case StepDone():
            message.step.CopyFrom(training.StepEvent(**fields))
        case EpochDone():
            message.epoch.CopyFrom(training.EpochEvent(**fields))
        case RunMessage():
            message.line.CopyFrom(training.LineEvent(**fields))
        case VersionPublished():
            message.published.CopyFrom(training.PublishedEvent(**fields))
    return message
