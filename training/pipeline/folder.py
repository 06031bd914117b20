"""The output folder of a run: its recipe, its checkpoints and the record of its published version.

Its files are:

    recipe.json             the recipe with every default filled in; written first
    data.json               digests of the data
    plan.json               what the run will do: rows, network, generations and the expected duration
    run-id                  the id of the run, which is in the manifest of the published version
    checkpoint.pt           the last finished epoch
    generation-<g>/         weights.pt and the exported stage-<k>.onnx; with attached exits also heads/, and
                            whole/stage-0.onnx, the network without early exits
    baselines/<name>/       the same for each baseline
    run.json                the record of the run; written after its version is published
    report.html             written last, when the run is finished
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from serving.errors import first_complaint
from serving.files import atomic_write
from serving.repository.manifest import (
    MANIFEST_FILE,
    Exit,
    ManifestSection,
    OperatingPoint,
)
from serving.repository.repository import file_digest
from training.data.splits import DataDigests
from training.errors import RunError
from training.exits.goals import DEFAULT_POINT
from training.exits.intervals import Estimate, Proportion, paired_difference
from training.pipeline.output_folder import ID_FILE, make_writable, run_id
from training.recipe.recipe import Recipe, first_difference

RECIPE_FILE = "recipe.json"
DATA_FILE = "data.json"
PLAN_FILE = "plan.json"
RECORD_FILE = "run.json"
REPORT_FILE = "report.html"

_Document = TypeVar("_Document", bound=BaseModel)


class RunPlan(ManifestSection):
    """What a run does, known before it trains."""

    split_rows: dict[str, int]
    """Rows of each split."""
    repeats: tuple[str, ...] = ()
    """Lines about rows with equal images."""
    classes: int
    image_shape: tuple[int, int, int]
    """[C, H, W]"""
    parameters: int
    """Parameters of the trained network."""
    multiply_adds: tuple[int, ...]
    """Multiply-adds of a row that leaves at each exit of the trained network."""
    exits_are_attached: bool
    """Whether early exits are chosen after training, by `exits.train = "frozen"`."""
    generations: int
    """Most generations. With `generations.patience` there may be fewer."""
    epochs: int
    """Epochs of each generation."""
    expected_seconds: float
    """Estimated duration of the whole run on the machine that began it."""
    warnings: tuple[str, ...] = ()
    """Warnings about the data, given before training."""


class GenerationRecord(ManifestSection):
    """The results of one generation."""

    number: int
    tune_accuracy: float
    """Accuracy of the final exit on the tune split."""
    tune_n: int
    p_value: float | None
    """Paired test on tune against the best earlier generation; None for the first generation."""
    exits: tuple[Exit, ...]
    operating_points: dict[str, OperatingPoint]
    precision: str | None = None
    """Precision at the end of its training: bf16 or fp32; None in old records."""


class EnsembleRecord(ManifestSection):
    """The ensemble of all generations: the mean of their softmax outputs at each exit."""

    generations: int
    accuracy: tuple[float, ...]
    """Accuracy of each exit; empty if there is only one generation."""
    split: str
    n: int


class BaselineRecord(ManifestSection):
    """The results of a baseline: a network without early exits."""

    name: str
    parameters: int
    multiply_adds: int
    milliseconds: dict[int, float]
    """Median for a batch, by number of rows."""
    accuracy: float
    gained: int
    """Rows that only the default operating point classifies correctly."""
    lost: int
    """Rows that only the baseline classifies correctly."""
    split: str
    n: int

    @property
    def right(self) -> Proportion:
        """The rows that are classified correctly."""
        return Proportion(round(self.accuracy * self.n), self.n)

    @property
    def beaten_by(self) -> Estimate:
        """Accuracy of the default operating point minus that of the baseline, with its interval."""
        return paired_difference(self.gained, self.lost, self.n)


class RunRecord(ManifestSection):
    """The record of a run that has published a version: `run.json`."""

    recipe: str
    model: str
    version: int
    published: str
    """Absolute path of the version's folder."""
    manifest_sha256: str
    """SHA-256 of the published manifest. Another run may have published to the same path later."""
    seed: int
    chosen_generation: int
    generations: tuple[GenerationRecord, ...]
    ensemble: EnsembleRecord
    stage_milliseconds: dict[int, tuple[float, ...]] = Field(default_factory=dict)
    """Medians of the published stages for a batch, by number of rows."""
    baselines: tuple[BaselineRecord, ...] = ()
    plan: RunPlan | None = None
    """None in old records."""
    warnings: tuple[str, ...] = ()
    """Warnings about the results, each with what to try."""

    @property
    def summary(self) -> str:
        """Accuracy and cost of the default operating point, in a clause."""
        chosen = next(
            generation for generation in self.generations if generation.number == self.chosen_generation
        )
        point = chosen.operating_points[DEFAULT_POINT]
        assert point.accuracy is not None, "a recipe's data has labels"
        accuracy = f"{DEFAULT_POINT} is right on {point.accuracy:.1%} of {point.n:,} test rows"
        if all(threshold is None for threshold in point.thresholds):
            return f"{accuracy} and saves nothing"
        return f"{accuracy} with {point.multiply_adds_share:.1%} of the network's multiply-adds"

    def is_published_in(self, model_repository: Path) -> bool:
        """Return whether the model repository has the version, with the recorded manifest."""
        folder = model_repository.resolve() / self.model / str(self.version)
        manifest = folder / MANIFEST_FILE
        return (
            folder == Path(self.published)
            and manifest.is_file()
            and file_digest(manifest) == self.manifest_sha256
        )


class RunFolder:
    """The output folder of one run."""

    def __init__(self, path: Path, *, allow_other_precision: bool = False) -> None:
        """Set the path. allow_other_precision: whether training may resume in another precision."""
        self.path = path
        self.allow_other_precision = allow_other_precision

    @property
    def run_id(self) -> str:
        """The id of the run. The manifest of the published version has it too."""
        return run_id(self.path)

    @property
    def report_path(self) -> Path:
        """Path of the report."""
        return self.path / REPORT_FILE

    def generation_folder(self, generation: int) -> Path:
        """Return the folder of a generation."""
        return self.path / f"generation-{generation}"

    def baseline_folder(self, name: str) -> "RunFolder":
        """Return the folder of a baseline."""
        path = self.path / "baselines" / name
        return RunFolder(path, allow_other_precision=self.allow_other_precision)

    def recipe(self) -> Recipe:
        """Read the recipe that the run was begun with; raise RunError if there is none."""
        recipe = self._read(RECIPE_FILE, Recipe.recorded)
        if recipe is None:
            raise RunError(f"output folder {self.path}: expected {RECIPE_FILE} of an earlier run, got none")
        return recipe

    def check(self, recipe: Recipe) -> None:
        """Raise RunError if the folder has files that are not from a run of this recipe."""
        if not _has_files(self.path):
            return
        difference = first_difference(self.recipe(), recipe)
        if difference is not None:
            raise RunError(
                f"output folder {self.path}: begun with another recipe: {difference}; choose another folder"
            )

    def begin(self, recipe: Recipe, data: DataDigests) -> None:
        """Create the folder and record recipe and data; raise RunError if other data is recorded.

        With other data, trained rows could be in another split, which would make all results invalid.
        """
        make_writable(self.path)
        run_id(self.path)
        if not (self.path / RECIPE_FILE).exists():
            self._write(RECIPE_FILE, recipe)
        recorded = self._read(DATA_FILE, DataDigests.model_validate_json)
        if recorded is None:
            self._write(DATA_FILE, data)
        elif recorded != data:
            name, expected, got = _first_other_digest(recorded, data)
            raise RunError(
                f"output folder {self.path}: begun with other data: {name}: expected digest {expected}, "
                f"got {got}"
            )

    def begin_or_resume(self, recipe: Recipe, data: DataDigests) -> None:
        """Begin a run, or resume it; raise RunError if another recipe or other data is recorded."""
        self.check(recipe)
        self.begin(recipe, data)

    def read_plan(self) -> RunPlan | None:
        """Return the plan of the run; None if the folder has none."""
        return self._read(PLAN_FILE, RunPlan.model_validate_json)

    def write_plan(self, plan: RunPlan) -> None:
        """Write the plan of the run."""
        self._write(PLAN_FILE, plan)

    def read_record(self) -> RunRecord | None:
        """Return the record of the run; None if it has not published."""
        return self._read(RECORD_FILE, RunRecord.model_validate_json)

    def write_record(self, record: RunRecord) -> None:
        """Write the record of the run."""
        self._write(RECORD_FILE, record)

    def _read(self, name: str, parse: Callable[[bytes], _Document]) -> _Document | None:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return parse(path.read_bytes())
        except ValidationError as error:
            raise RunError(
                f"{path}: not written by this version of the program: {first_complaint(error)}"
            ) from error

    def _write(self, name: str, document: BaseModel) -> None:
        with atomic_write(self.path / name) as file:
            file.write(document.model_dump_json(indent=2).encode() + b"\n")


def _first_other_digest(recorded: DataDigests, data: DataDigests) -> tuple[str, str, str]:
    """Return the name of the dataset or of the first split that differs, and both digests."""
    before, now = ({"dataset": each.dataset} | each.splits for each in (recorded, data))
    name = next(name for name in before | now if before.get(name) != now.get(name))
    return name, before.get(name, "none"), now.get(name, "none")


def _has_files(folder: Path) -> bool:
    """Return whether a folder has files other than the id, locks and drafts of killed processes."""
    entries = folder.iterdir() if folder.exists() else ()
    return any(entry.name != ID_FILE and not entry.name.startswith(".") for entry in entries)
