"""The base of every record that a measurement writes as JSON."""

from pydantic import BaseModel, ConfigDict


class RecordPart(BaseModel):
    """A frozen part of a record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
