"""The base of every settings section: frozen, with keys and types of its own alone.

Docstrings under its keys are their descriptions, for whoever lists them. And how a complaint about one
is said: in one line that names key, what was expected and what was got.
Knows nothing of what a section means, nor of where it was read.
"""

from collections.abc import Collection
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

LARGEST_SEED = 2**63 - 1

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class Section(BaseModel):
    """A frozen part of a recipe that refuses keys it does not know and types that are not its own."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class OneOf:
    """Takes a name only where it is known, and lists the known ones in the JSON schema."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = known

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(self._known)}

    def _check(self, name: str) -> str:
        if name not in self._known:
            raise ValueError(f"expected one of {', '.join(self._known)}")
        return name


def complaint(kind: type[BaseModel], detail: ErrorDetails) -> str:
    """Rewrite one of pydantic's errors: key, what was expected, what was received."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        section = _section_of(kind, detail["loc"])
        return f"{key}: unknown key" if section is None else unknown_key(key, section)
    if detail["type"] == "missing":
        return f"{key}: expected a value, got none"
    expected = one_line(detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected"))
    if detail["type"] == "value_error" and not expected.startswith("expected"):
        return f"{key}.{expected}".removeprefix(".")  # a section's own complaint: its key and both values
    return f"{key}: {expected}, got {one_line(repr(detail['input']))}"


def unknown_key(key: str, section: type[BaseModel]) -> str:
    """Return the error for an unknown key of a section, with the known ones."""
    return f"{key}: unknown key, known: {', '.join(section.model_fields)}"


def section_in(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a field is; None where it holds a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def one_line(text: str) -> str:
    """Put a text of several lines into one."""
    return " ".join(text.split())


def _section_of(kind: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Find the section that holds the key at a location; None where it is one of several."""
    section: type[BaseModel] | None = kind
    for part in location[:-1]:
        if section is not None and isinstance(part, str):  # a number counts a list's entries, all of one kind
            section = _held_section(section.model_fields[part].annotation)
    return section


def _held_section(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any annotation there is
    """Return the section that a field holds, as it is or in a tuple; None where it is one of several."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
