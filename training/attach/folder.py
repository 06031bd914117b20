"""The output folder of `attach`: its inputs, finished work and record.

attach.json         the settings, and digests of the file and the rows; written first
run-id              the run's id, which the manifest of the published version contains
features/           pooled features of every level, for all rows
heads/              a trained head for each level
stage-<k>.onnx      the stages
record.json         the results, and where they were published
report.html         written last
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from serving.errors import first_complaint
from serving.files import atomic_write
from training.attach.record import AttachRecord
from training.attach.settings import AttachSettings
from training.errors import RunError
from training.pipeline.output_folder import ID_FILE, make_writable, run_id
from training.recipe.section import Section

INPUTS_FILE, RECORD_FILE, REPORT_FILE = "attach.json", "record.json", "report.html"
INITIAL_FILES = frozenset({INPUTS_FILE, ID_FILE})
"""The files of a run that was refused before any work. A new run may use such a folder."""

_Document = TypeVar("_Document", bound=BaseModel)


class AttachInputs(Section):
    """The inputs that a folder was started with."""

    settings: AttachSettings
    model_sha256: str
    rows_digest: str


class AttachFolder:
    """The output folder of `attach`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.features, self.heads = path / "features", path / "heads"
        self.report = path / REPORT_FILE

    @property
    def run_id(self) -> str:
        """The id that the manifest of the published version contains."""
        return run_id(self.path)

    def start(self, inputs: AttachInputs) -> None:
        """Write the inputs, or raise RunError if the folder was started with other inputs."""
        make_writable(self.path)
        entries = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")}
        has_work = bool(entries - INITIAL_FILES)
        earlier = self._read(INPUTS_FILE, AttachInputs) if has_work else None
        if has_work and earlier is None:
            raise RunError(f"output folder {self.path}: expected {INPUTS_FILE} of an earlier run, got none")
        if earlier is not None and earlier != inputs:
            raise RunError(f"output folder {self.path}: started with {_difference(earlier, inputs)}")
        run_id(self.path)
        if earlier is None:
            self._write(INPUTS_FILE, inputs)

    def read_record(self) -> AttachRecord | None:
        """Read the record; None before anything was published."""
        return self._read(RECORD_FILE, AttachRecord)

    def write_record(self, record: AttachRecord) -> None:
        """Write the record."""
        self._write(RECORD_FILE, record)

    def _read(self, name: str, kind: type[_Document]) -> _Document | None:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return kind.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise RunError(f"{path}: written by another version: {first_complaint(error)}") from error

    def _write(self, name: str, document: BaseModel) -> None:
        with atomic_write(self.path / name) as file:
            file.write(document.model_dump_json(indent=2).encode() + b"\n")


def _difference(earlier: AttachInputs, now: AttachInputs) -> str:
    """Describe the first difference, with both values."""
    for key in AttachSettings.model_fields:
        expected, got = getattr(earlier.settings, key), getattr(now.settings, key)
        if expected != got:
            return f"another {key}: expected {expected}, got {got}"
    if earlier.model_sha256 != now.model_sha256:
        return f"another model file: expected SHA-256 {earlier.model_sha256}, got {now.model_sha256}"
    return f"other rows: expected digest {earlier.rows_digest}, got {now.rows_digest}"
