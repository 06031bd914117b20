"""One run's output folder: whose recipe it was begun with, and the record of what it published.

    recipe.json             the recipe, every default filled in: written first
    data.json               digests of the data it was begun with
    run-id                  made when it was begun; the manifest of what it publishes names it
    checkpoint.pt           the epoch to resume from
    generation-<g>/         weights.pt, and stage-<k>.onnx as exported; where exits were attached to a trained
                            backbone, also whole/stage-0.onnx without them, and heads/
    baselines/<name>/       the same for networks without exits, where the recipe compares with them
    run.json                the run's record: written once its version is published
    report.html             written last: the run is finished

Knows nothing of how a run goes on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from serving.errors import first_complaint
from serving.repository.manifest import (
    MANIFEST_FILE,
    Exit,
    ManifestSection,
    OperatingPoint,
)
from serving.repository.repository import file_digest
from training.data.splits import DataDigests
from training.errors import RunError
from training.exits.intervals import Estimate, Proportion, paired_difference
from training.files.output_folder import ID_FILE, make_writable, run_id
from training.files.whole_file import whole_file
from training.recipe.recipe import Recipe, first_difference

RECIPE_FILE = "recipe.json"
DATA_FILE = "data.json"
RECORD_FILE = "run.json"
REPORT_FILE = "report.html"

_Document = TypeVar("_Document", bound=BaseModel)


class GenerationRecord(ManifestSection):
    """What a run found out about one generation."""

    number: int
    tune_accuracy: float
    """Of the final exit."""
    tune_n: int
    p_value: float | None
    """Of the paired test on tune against the generation promoted so far; None for the first."""
    exits: tuple[Exit, ...]
    operating_points: dict[str, OperatingPoint]
    precision: str | None = None
    """In which its training ended: bf16 or fp32; None where that was not written down."""


class EnsembleRecord(ManifestSection):
    """All generations of a run together: the mean of their softmax outputs, exit by exit."""

    generations: int
    accuracy: tuple[float, ...]
    """Of each exit; empty for one generation, which is no ensemble."""
    split: str
    n: int


class BaselineRecord(ManifestSection):
    """A network without exits, trained to compare with."""

    name: str
    parameters: int
    multiply_adds: int
    milliseconds: dict[int, float]
    """Median for a whole batch, by its rows."""
    accuracy: float
    gained: int
    """Rows that the default operating point has right and it has not."""
    lost: int
    """Rows that it has right and the default operating point has not."""
    split: str
    n: int

    @property
    def right(self) -> Proportion:
        """The rows that it has right."""
        return Proportion(round(self.accuracy * self.n), self.n)

    @property
    def beaten_by(self) -> Estimate:
        """How much more often the default operating point is right, a share, with its interval."""
        return paired_difference(self.gained, self.lost, self.n)


class RunRecord(ManifestSection):
    """A run that has published: `run.json`."""

    recipe: str
    model: str
    version: int
    published: str
    """The version's folder, absolute."""
    manifest_sha256: str
    """Of the manifest as published: another run may have put its own version in that place since."""
    seed: int
    chosen_generation: int
    generations: tuple[GenerationRecord, ...]
    ensemble: EnsembleRecord
    stage_milliseconds: dict[int, tuple[float, ...]] = Field(default_factory=dict)
    """Of the published stages: medians for a whole batch, by its rows."""
    baselines: tuple[BaselineRecord, ...] = ()

    def is_published_in(self, model_repository: Path) -> bool:
        """Whether the version lies in that model repository."""
        place = model_repository.resolve() / self.model / str(self.version)
        manifest = place / MANIFEST_FILE
        return (
            place == Path(self.published)
            and manifest.is_file()
            and file_digest(manifest) == self.manifest_sha256
        )


class RunFolder:
    """The output folder of one run."""

    def __init__(self, path: Path, *, allow_other_precision: bool = False) -> None:
        """Take a folder; allow_other_precision: training may go on in another format than it was begun in."""
        self.path = path
        self.allow_other_precision = allow_other_precision

    @property
    def run_id(self) -> str:
        """What the manifest of the version that it publishes names."""
        return run_id(self.path)

    @property
    def report_path(self) -> Path:
        """Where the report lies."""
        return self.path / REPORT_FILE

    def generation_folder(self, generation: int) -> Path:
        """Where a generation's files lie."""
        return self.path / f"generation-{generation}"

    def baseline_folder(self, name: str) -> "RunFolder":
        """Where a network without exits is trained, to compare with."""
        place = self.path / "baselines" / name
        return RunFolder(place, allow_other_precision=self.allow_other_precision)

    def recipe(self) -> Recipe:
        """Read the recipe that the run was begun with; raise RunError if there is none."""
        recipe = self._read(RECIPE_FILE, Recipe.recorded)
        if recipe is None:
            raise RunError(f"output folder {self.path}: expected {RECIPE_FILE} of an earlier run, got none")
        return recipe

    def check(self, recipe: Recipe) -> None:
        """Raise RunError where the folder holds something else than a run of this recipe; changes nothing."""
        if not self._holds_something():
            return
        difference = first_difference(self.recipe(), recipe)
        if difference is not None:
            raise RunError(f"output folder {self.path}: begun with another recipe: {difference}")

    def begin(self, recipe: Recipe, data: DataDigests) -> None:
        """Make the folder and bind it to recipe and data; raise RunError where it is bound to other data.

        Rows that moved between splits since the training began would void every figure.
        """
        make_writable(self.path)
        run_id(self.path)
        if not (self.path / RECIPE_FILE).exists():
            self._write(RECIPE_FILE, recipe)
        begun_with = self._read(DATA_FILE, DataDigests.model_validate_json)
        if begun_with is None:
            self._write(DATA_FILE, data)
        elif begun_with != data:
            raise RunError(
                f"output folder {self.path}: begun with other data: "
                f"expected digest {begun_with.dataset}, got {data.dataset}"
            )

    def go_on(self, recipe: Recipe, data: DataDigests) -> None:
        """Begin, or go on with what the same recipe and data began here; raise RunError for any other."""
        self.check(recipe)
        self.begin(recipe, data)

    def read_record(self) -> RunRecord | None:
        """Return the record of a run that has published; None where it has not."""
        return self._read(RECORD_FILE, RunRecord.model_validate_json)

    def write_record(self, record: RunRecord) -> None:
        """Write the record of what was published."""
        self._write(RECORD_FILE, record)

    def _holds_something(self) -> bool:
        """Whether anything was kept here, beside the id, a lock, or a draft that a kill left."""
        entries = self.path.iterdir() if self.path.exists() else ()
        return any(entry.name != ID_FILE and not entry.name.startswith(".") for entry in entries)

    def _read(self, name: str, parse: Callable[[bytes], _Document]) -> _Document | None:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return parse(path.read_bytes())
        except ValidationError as error:
            raise RunError(f"{path}: not of this program's version: {first_complaint(error)}") from error

    def _write(self, name: str, document: BaseModel) -> None:
        with whole_file(self.path / name) as file:
            file.write(document.model_dump_json(indent=2).encode() + b"\n")
