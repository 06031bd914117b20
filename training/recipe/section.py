"""The base class of settings sections, and the error messages for their values.

The docstring under a key is its help text. An error message is one line that names the key, the expected
value and the given value.
"""

from collections.abc import Collection
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from serving.repository.manifest import NAME_RULE

LARGEST_SEED = 2**63 - 1

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class Section(BaseModel):
    """A frozen section of settings that refuses unknown keys and values of another type."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class OneOf:
    """Annotates a name that must be one of the known names. The JSON schema lists them."""

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


def error_message(kind: type[BaseModel], detail: ErrorDetails) -> str:
    """Return one of pydantic's errors as a line with the key, the expected and the given value."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        section = _section_of(kind, detail["loc"])
        return f"{key}: unknown key" if section is None else unknown_key(key, section)
    if detail["type"] == "missing":
        return f"{key}: expected a value, got none"
    expected = one_line(detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected"))
    if detail["type"] == "string_pattern_mismatch":  # all patterns are of names
        expected = f"expected {NAME_RULE}"
    if detail["type"] == "value_error" and not expected.startswith("expected"):
        return f"{key}.{expected}".removeprefix(".")  # raised by a validator of the section
    return f"{key}: {expected}, got {one_line(repr(detail['input']))}"


def unknown_key(key: str, section: type[BaseModel]) -> str:
    """Return the message for an unknown key, with the known keys of the section."""
    return f"{key}: unknown key, known: {', '.join(section.model_fields)}"


def section_of_field(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section class of a field; None if the field is a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def one_line(text: str) -> str:
    """Join the lines of a text."""
    return " ".join(text.split())


def _section_of(kind: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the section of the key at a location; None if the key allows several sections."""
    section: type[BaseModel] | None = kind
    for part in location[:-1]:
        if section is not None and isinstance(part, str):  # a number is the index of a list
            section = _held_section(section.model_fields[part].annotation)
    return section


def _held_section(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any annotation
    """Return the section class in an annotation, directly or in a tuple; None if there is none."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
