"""The output folder of one attaching: what it was begun with, what is finished, and its record.

    attach.json         the settings, and digests of the file and the rows: written first
    run-id              made when it was begun; the manifest of what it publishes names it
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
from serving.files import atomic_write
from training.attach.record import AttachRecord
from training.attach.settings import AttachSettings
from training.errors import RunError
from training.recipe.section import Section
from training.run.output_folder import ID_FILE, make_writable, run_id

BEGUN_FILE, RECORD_FILE, REPORT_FILE = "attach.json", "record.json", "report.html"
BEGUN_FILES = frozenset({BEGUN_FILE, ID_FILE})
"""All that an attaching has kept which was refused before any work: another may begin in its folder."""

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

    @property
    def run_id(self) -> str:
        """What the manifest of the version that it publishes names."""
        return run_id(self.path)

    def begin(self, begun: Begun) -> None:
        """Bind the folder to what it is begun with; raise RunError where it was begun with anything else."""
        make_writable(self.path)
        kept = [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]
        holds_work = bool(set(kept) - BEGUN_FILES)
        before = self._read(BEGUN_FILE, Begun) if holds_work else None
        if holds_work and before is None:
            raise RunError(f"output folder {self.path}: expected {BEGUN_FILE} of an earlier run, got none")
        if before is not None and before != begun:
            raise RunError(f"output folder {self.path}: begun with {_difference(before, begun)}")
        run_id(self.path)
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
        with atomic_write(self.path / name) as file:
            file.write(document.model_dump_json(indent=2).encode() + b"\n")


def _difference(before: Begun, now: Begun) -> str:
    """Name the first thing that differs, with both values."""
    for key in AttachSettings.model_fields:
        ours, theirs = getattr(now.settings, key), getattr(before.settings, key)
        if ours != theirs:
            return f"another {key}: expected {theirs}, got {ours}"
    what = "model file" if before.model_sha256 != now.model_sha256 else "rows"
    return f"another {what}, whose digest differs"
