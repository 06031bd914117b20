"""A recipe: everything that decides a training run, read from TOML and checked before any work.

The sections are frozen and refuse keys they do not know; each field states its unit and default.
Knows the names of datasets, architectures and rules from their registries, but not what they do.
"""

import json
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from serving.repository.manifest import NAME_PATTERN
from training.architectures.registry import ARCHITECTURES
from training.born_again.losses import RULES
from training.data.registry import DATASETS
from training.errors import RecipeError

BUILT_IN = Path(__file__).parent / "recipes"
LARGEST_SEED = 2**63 - 1

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Temperature = Annotated[float, Field(ge=0.1, le=100.0)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


def _one_of(known: Collection[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return name

    return AfterValidator(check)


class Section(BaseModel):
    """A frozen part of the recipe that refuses keys it does not know and types that are not its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DatasetSection(Section):
    """Which rows, and how they are cut; the train split gets what remains."""

    name: Annotated[str, _one_of(DATASETS)]
    """A registered dataset. No default."""
    file: str | None = None
    """Path of the user's own .npz file, from the working directory; only for `npz`."""
    split_seed: Seed = 0
    """Seeds the permutation that cuts the splits; stays fixed when `seed` varies. Default 0."""
    temperature_rows: Count = 100
    """Rows that fit the calibration temperatures. Default 100."""
    tune_rows: Count = 200
    """Rows that choose generation and operating points. Default 200."""
    certify_rows: Count = 200
    """Rows that certify them; epsilon 0.01 at delta 0.05 takes at least 299. Default 200."""
    test_rows: Count | None = None
    """Rows that are read once, at the end. Only for a set without an official test split, which needs it."""


class ArchitectureSection(Section):
    """The network, the same in every generation."""

    name: Annotated[str, _one_of(ARCHITECTURES)] = "deep_supervision"
    """A registered architecture. Default deep_supervision."""
    width: Annotated[int, Field(ge=1, le=4096)] = 64
    """Channels of the first stage. Default 64."""
    head_grid: Annotated[int, Field(ge=1, le=64)] = 1
    """Cells a side that heads pool their features to; 1 is the global pool. Default 1."""


class GenerationsSection(Section):
    """How often a trained network teaches the next, and by which rule."""

    count: Count = 3
    """Networks trained one after the other, the first without a teacher. Default 3."""
    rule: Annotated[str, _one_of(RULES)] = "kd"
    """How a teacher and the labels combine. Default kd."""
    alpha: Share = 0.5
    """Weight of the labels against the teacher, 0 to 1. Default 0.5."""
    distillation_temperature: Temperature = 4.0
    """Softens teacher and student. Default 4.0."""


class DeepSupervisionSection(Section):
    """How the final exit teaches the early ones inside one network."""

    exit_weight: Annotated[float, Field(ge=0.0)] = 0.3
    """Weight of each early exit's loss against the final exit's. Default 0.3."""
    distillation_share: Share = 1.0
    """How much of an early exit's loss comes from the final exit, the rest from the labels. Default 1.0."""
    distillation_temperature: Temperature = 4.0
    """Softens the final exit and the early one. Default 4.0."""


class ScheduleSection(Section):
    """AdamW under a one-cycle learning rate, the same for every generation."""

    epochs: Count = 20
    """Passes over the train split a generation. Default 20."""
    batch_rows: Annotated[int, Field(ge=2)] = 32
    """Rows a step. Default 32."""
    learning_rate: Positive = 0.002
    """The peak of the cycle. Default 0.002."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0001
    """AdamW's decoupled decay. Default 0.0001."""
    warm_up_share: Share = 0.2
    """Share of the steps in which the learning rate rises. Default 0.2."""


class OperatingPointSection(Section):
    """What a published operating point aims at, and what is certified of it."""

    max_accuracy_loss: Share
    """Accuracy it may lose against the final exit on the tune split, as a share."""
    epsilon: OpenShare
    """Certified bound on the share of answers that differ from the final exit's."""
    delta: OpenShare = 0.05
    """Chance that the certificate may be wrong. Default 0.05."""


class OperatingPointsSection(Section):
    """The points published beside `exact`; a small certify split cannot certify a small epsilon."""

    balanced: OperatingPointSection = OperatingPointSection(max_accuracy_loss=0.003, epsilon=0.01)
    """The default point. Default: loss 0.003, epsilon 0.01, delta 0.05."""
    fast: OperatingPointSection = OperatingPointSection(max_accuracy_loss=0.010, epsilon=0.03)
    """Default: loss 0.010, epsilon 0.03, delta 0.05."""

    @property
    def goals(self) -> dict[str, OperatingPointSection]:
        """What each published point aims at, by name; `exact` aims at nothing."""
        return {"balanced": self.balanced, "fast": self.fast}


class Recipe(Section):
    """A whole training run."""

    description: str = ""
    """One line for people. Default empty."""
    model: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
    """Name to publish under. No default."""
    seed: Seed = 0
    """Seeds weights and batch order. Default 0."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    """Threads of PyTorch; the same seed repeats bitwise only at the same count. Default 2."""
    dataset: DatasetSection
    architecture: ArchitectureSection = ArchitectureSection()
    generations: GenerationsSection = GenerationsSection()
    deep_supervision: DeepSupervisionSection = DeepSupervisionSection()
    schedule: ScheduleSection = ScheduleSection()
    operating_points: OperatingPointsSection = OperatingPointsSection()

    def with_seed(self, seed: int) -> Self:
        """Replace the seed alone, for runs that differ by nothing else; raise RecipeError out of range."""
        if not 0 <= seed <= LARGEST_SEED:
            raise RecipeError(f"seed: expected 0 to {LARGEST_SEED}, got {seed}")
        return self.model_copy(update={"seed": seed})


def built_in_recipes() -> dict[str, Path]:
    """List the recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}


def recipe_path(name_or_path: str) -> Path:
    """Find a built-in recipe by name, or else a TOML file by path."""
    built_in = built_in_recipes()
    path = built_in.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise RecipeError(
            f'recipe "{name_or_path}": expected a built-in name ({", ".join(built_in)}) or a TOML file, '
            "got neither"
        )
    return path


def load_recipe(name_or_path: str) -> Recipe:
    """Read a built-in recipe or a TOML file; raise RecipeError with one line naming file, key and values."""
    path = recipe_path(name_or_path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # bad TOML, or bytes that are no UTF-8
        raise RecipeError(f"{path}: expected TOML in UTF-8, got: {_one_line(str(error))}") from error
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        complaint = _complaint(error.errors(include_url=False)[0])
        raise RecipeError(f"{path}: {complaint}") from error


def first_difference(expected: Recipe, got: Recipe) -> str | None:
    """Say in one line the first key whose value differs between two recipes; None where none does."""
    old, new = _flat(expected.model_dump()), _flat(got.model_dump())
    for key in old:
        if old[key] != new[key] and key != "description":  # which decides nothing
            return f"{key}: expected {json.dumps(old[key])}, got {json.dumps(new[key])}"
    return None


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in section.items():
        values |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values


def _complaint(detail: ErrorDetails) -> str:
    """Say one of pydantic's complaints in our words: key, what was expected, what was got."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key, known: {', '.join(_section_of(detail['loc']).model_fields)}"
    if detail["type"] == "missing":
        return f"{key}: expected a value, got none"
    expected = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{key}: {_one_line(expected)}, got {_one_line(repr(detail['input']))}"


def _section_of(location: tuple[int | str, ...]) -> type[BaseModel]:
    """Find the section that holds the key at a location."""
    section: type[BaseModel] = Recipe
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type), "only sections hold keys"
        assert issubclass(annotation, BaseModel), "only sections hold keys"
        section = annotation
    return section


def _one_line(text: str) -> str:
    return " ".join(text.split())
