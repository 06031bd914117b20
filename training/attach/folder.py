"""The output folder of one attaching: what it was begun with, what is finished, and its record.

    attach.json         the settings, and digests of the file and the rows: written first
    features/           pooled features of every level, for all rows
    heads/              a trained head for each level
    stage-<k>.onnx      the stages
    record.json         what was found and published
    report.html         written last

Knows nothing of how the work goes on.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from serving.errors import first_complaint
from training.attach.record import AttachRecord
from training.attach.settings import AttachSettings
from training.errors import RunError
from training.run_folder import make_writable
from training.section import Section
from training.whole_file import whole_file

BEGUN_FILE, RECORD_FILE, REPORT_FILE = "attach.json", "record.json", "report.html"

_Document = TypeVar("_Document", bound=BaseModel)


class Begun(Section):
    """What an attaching was begun with."""

    settings: AttachSettings
    model_sha256: str
    rows_digest: str


class AttachFolder:
    """The folder of one attaching."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.features, self.heads = path / "features", path / "heads"
        self.report = path / REPORT_FILE

    def begin(self, begun: Begun, *, resume: bool) -> None:
        """Make the folder, or go on with what it was begun with; raise RunError for anything else.

        A folder of a run that was refused before it kept anything counts as empty.
        """
        entries = (
            [entry for entry in self.path.iterdir() if entry.name != BEGUN_FILE] if self.path.is_dir() else []
        )
        before = self._read(BEGUN_FILE, Begun) if entries else None
        if entries and not resume:
            raise RunError(
                f"output folder {self.path}: expected an empty one, got {len(entries)} entries: "
                "go on with --resume, or give another --output"
            )
        if entries and before is None:
            raise RunError(f"output folder {self.path}: expected {BEGUN_FILE} of an earlier run, got none")
        if before is not None and before != begun:
            raise RunError(f"output folder {self.path}: begun with {_difference(before, begun)}")
        make_writable(self.path)
        if before is None:
            self._write(BEGUN_FILE, begun)

    def read_record(self) -> AttachRecord | None:
        """Return the record of what was published; None where nothing was."""
        return self._read(RECORD_FILE, AttachRecord)

    def write_record(self, record: AttachRecord) -> None:
        """Write the record of what was published."""
        self._write(RECORD_FILE, record)

    def _read(self, name: str, kind: type[_Document]) -> _Document | None:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return kind.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise RunError(f"{path}: not of this program's version: {first_complaint(error)}") from error

    def _write(self, name: str, document: BaseModel) -> None:
        with whole_file(self.path / name) as file:
            file.write(document.model_dump_json(indent=2).encode() + b"\n")


def _difference(before: Begun, now: Begun) -> str:
    """Name the first thing that differs, with both values."""
    for key in AttachSettings.model_fields:
        ours, theirs = getattr(now.settings, key), getattr(before.settings, key)
        if ours != theirs:
            return f"another {key}: expected {theirs}, got {ours}"
    what = "model file" if before.model_sha256 != now.model_sha256 else "rows"
    return f"another {what}, whose digest differs"
