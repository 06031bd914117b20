"""The base of every settings section: frozen, with keys and types of its own alone.

And how a complaint about one is said: in one line that names key, what was expected and what was got.
Knows nothing of what a section means, nor of where it was read.
"""

from collections.abc import Collection
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails

LARGEST_SEED = 2**63 - 1

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class Section(BaseModel):
    """A frozen part of a recipe that refuses keys it does not know and types that are not its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def one_of(known: Collection[str]) -> AfterValidator:
    """Take a name only where it is known."""

    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return name

    return AfterValidator(check)


def complaint(kind: type[BaseModel], detail: ErrorDetails) -> str:
    """Say one of pydantic's complaints in our words: key, what was expected, what was got."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        section = _section_of(kind, detail["loc"])
        known = f", known: {', '.join(section.model_fields)}" if section is not None else ""
        return f"{key}: unknown key{known}"
    if detail["type"] == "missing":
        return f"{key}: expected a value, got none"
    expected = one_line(detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected"))
    if detail["type"] == "value_error" and not expected.startswith("expected"):
        return f"{key}.{expected}".removeprefix(".")  # a section's own complaint: its key and both values
    return f"{key}: {expected}, got {one_line(repr(detail['input']))}"


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
    """Give the section that a field holds, as it is or in a tuple; None where it is one of several."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
