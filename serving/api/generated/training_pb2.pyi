from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NullValue(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NULL_VALUE: _ClassVar[NullValue]

class SettingKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SETTING_KIND_UNSPECIFIED: _ClassVar[SettingKind]
    STRING: _ClassVar[SettingKind]
    INTEGER: _ClassVar[SettingKind]
    NUMBER: _ClassVar[SettingKind]
    BOOLEAN: _ClassVar[SettingKind]
    LIST: _ClassVar[SettingKind]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    RUNNING: _ClassVar[JobState]
    SUCCEEDED: _ClassVar[JobState]
    FAILED: _ClassVar[JobState]
    CANCELLED: _ClassVar[JobState]
    INTERRUPTED: _ClassVar[JobState]
NULL_VALUE: NullValue
SETTING_KIND_UNSPECIFIED: SettingKind
STRING: SettingKind
INTEGER: SettingKind
NUMBER: SettingKind
BOOLEAN: SettingKind
LIST: SettingKind
JOB_STATE_UNSPECIFIED: JobState
RUNNING: JobState
SUCCEEDED: JobState
FAILED: JobState
CANCELLED: JobState
INTERRUPTED: JobState

class Value(_message.Message):
    __slots__ = ("bool_value", "integer_value", "number_value", "string_value", "list_value", "null_value")
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INTEGER_VALUE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    LIST_VALUE_FIELD_NUMBER: _ClassVar[int]
    NULL_VALUE_FIELD_NUMBER: _ClassVar[int]
    bool_value: bool
    integer_value: int
    number_value: float
    string_value: str
    list_value: ValueList
    null_value: NullValue
    def __init__(self, bool_value: _Optional[bool] = ..., integer_value: _Optional[int] = ..., number_value: _Optional[float] = ..., string_value: _Optional[str] = ..., list_value: _Optional[_Union[ValueList, _Mapping]] = ..., null_value: _Optional[_Union[NullValue, str]] = ...) -> None: ...

class ValueList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, values: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("key", "kind", "default", "value", "choices", "minimum", "maximum", "exclusive_minimum", "exclusive_maximum", "help", "nullable")
    KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_MINIMUM_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    HELP_FIELD_NUMBER: _ClassVar[int]
    NULLABLE_FIELD_NUMBER: _ClassVar[int]
    key: str
    kind: SettingKind
    default: Value
    value: Value
    choices: _containers.RepeatedCompositeFieldContainer[Value]
    minimum: float
    maximum: float
    exclusive_minimum: float
    exclusive_maximum: float
    help: str
    nullable: bool
    def __init__(self, key: _Optional[str] = ..., kind: _Optional[_Union[SettingKind, str]] = ..., default: _Optional[_Union[Value, _Mapping]] = ..., value: _Optional[_Union[Value, _Mapping]] = ..., choices: _Optional[_Iterable[_Union[Value, _Mapping]]] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., exclusive_minimum: _Optional[float] = ..., exclusive_maximum: _Optional[float] = ..., help: _Optional[str] = ..., nullable: _Optional[bool] = ...) -> None: ...

class Recipe(_message.Message):
    __slots__ = ("name", "description", "needs", "settings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    needs: str
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., needs: _Optional[str] = ..., settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ...) -> None: ...

class ListRecipesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRecipesResponse(_message.Message):
    __slots__ = ("recipes",)
    RECIPES_FIELD_NUMBER: _ClassVar[int]
    recipes: _containers.RepeatedCompositeFieldContainer[Recipe]
    def __init__(self, recipes: _Optional[_Iterable[_Union[Recipe, _Mapping]]] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("recipe", "model", "overrides", "serve")
    class OverridesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    SERVE_FIELD_NUMBER: _ClassVar[int]
    recipe: str
    model: str
    overrides: _containers.MessageMap[str, Value]
    serve: bool
    def __init__(self, recipe: _Optional[str] = ..., model: _Optional[str] = ..., overrides: _Optional[_Mapping[str, Value]] = ..., serve: _Optional[bool] = ...) -> None: ...

class JobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("id", "after_event")
    ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_EVENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    after_event: int
    def __init__(self, id: _Optional[str] = ..., after_event: _Optional[int] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "recipe", "model", "overrides", "state", "serve", "created_seconds", "started_seconds", "ended_seconds", "version", "error", "progress", "chosen_generation")
    class OverridesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SERVE_FIELD_NUMBER: _ClassVar[int]
    CREATED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STARTED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENDED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    id: str
    recipe: str
    model: str
    overrides: _containers.MessageMap[str, Value]
    state: JobState
    serve: bool
    created_seconds: float
    started_seconds: float
    ended_seconds: float
    version: int
    error: str
    progress: Progress
    chosen_generation: int
    def __init__(self, id: _Optional[str] = ..., recipe: _Optional[str] = ..., model: _Optional[str] = ..., overrides: _Optional[_Mapping[str, Value]] = ..., state: _Optional[_Union[JobState, str]] = ..., serve: _Optional[bool] = ..., created_seconds: _Optional[float] = ..., started_seconds: _Optional[float] = ..., ended_seconds: _Optional[float] = ..., version: _Optional[int] = ..., error: _Optional[str] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., chosen_generation: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("last_event", "generation", "epochs", "epochs_done", "loss", "tune_accuracy", "seconds_left")
    LAST_EVENT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_DONE_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    TUNE_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    last_event: int
    generation: int
    epochs: int
    epochs_done: int
    loss: float
    tune_accuracy: _containers.RepeatedScalarFieldContainer[float]
    seconds_left: float
    def __init__(self, last_event: _Optional[int] = ..., generation: _Optional[int] = ..., epochs: _Optional[int] = ..., epochs_done: _Optional[int] = ..., loss: _Optional[float] = ..., tune_accuracy: _Optional[_Iterable[float]] = ..., seconds_left: _Optional[float] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("number", "time_seconds", "generation", "step", "epoch", "line", "published", "state")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    number: int
    time_seconds: float
    generation: GenerationEvent
    step: StepEvent
    epoch: EpochEvent
    line: LineEvent
    published: PublishedEvent
    state: StateEvent
    def __init__(self, number: _Optional[int] = ..., time_seconds: _Optional[float] = ..., generation: _Optional[_Union[GenerationEvent, _Mapping]] = ..., step: _Optional[_Union[StepEvent, _Mapping]] = ..., epoch: _Optional[_Union[EpochEvent, _Mapping]] = ..., line: _Optional[_Union[LineEvent, _Mapping]] = ..., published: _Optional[_Union[PublishedEvent, _Mapping]] = ..., state: _Optional[_Union[StateEvent, _Mapping]] = ...) -> None: ...

class GenerationEvent(_message.Message):
    __slots__ = ("generation", "epochs", "epochs_done", "steps_per_epoch")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_DONE_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    generation: int
    epochs: int
    epochs_done: int
    steps_per_epoch: int
    def __init__(self, generation: _Optional[int] = ..., epochs: _Optional[int] = ..., epochs_done: _Optional[int] = ..., steps_per_epoch: _Optional[int] = ...) -> None: ...

class StepEvent(_message.Message):
    __slots__ = ("generation", "step", "steps", "seconds_left")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    generation: int
    step: int
    steps: int
    seconds_left: float
    def __init__(self, generation: _Optional[int] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., seconds_left: _Optional[float] = ...) -> None: ...

class EpochEvent(_message.Message):
    __slots__ = ("generation", "epochs", "epochs_done", "loss", "tune_accuracy")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_DONE_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    TUNE_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    generation: int
    epochs: int
    epochs_done: int
    loss: float
    tune_accuracy: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, generation: _Optional[int] = ..., epochs: _Optional[int] = ..., epochs_done: _Optional[int] = ..., loss: _Optional[float] = ..., tune_accuracy: _Optional[_Iterable[float]] = ...) -> None: ...

class LineEvent(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class PublishedEvent(_message.Message):
    __slots__ = ("model", "version", "folder", "chosen_generation", "report")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_GENERATION_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    folder: str
    chosen_generation: int
    report: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., folder: _Optional[str] = ..., chosen_generation: _Optional[int] = ..., report: _Optional[str] = ...) -> None: ...

class StateEvent(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: Job
    def __init__(self, job: _Optional[_Union[Job, _Mapping]] = ...) -> None: ...

class LogText(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...
