"""The base class of all JSON records of measurements."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict


class RecordPart(BaseModel):
    """A frozen part of a record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record from a file; raise pydantic.ValidationError if it does not match."""
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        """Write the record to a file, one key per line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n")
