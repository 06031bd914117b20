"""A recipe: everything that decides a training run, read from TOML and checked before any work.

Every complaint is one line that names file, key and both values. Knows nothing of what a section means.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from serving.repository.manifest import NAME_PATTERN
from training.data.section import DatasetSection
from training.errors import RecipeError
from training.exits.goals import OperatingPointsSection
from training.recipe.overrides import Overrides, concerns, overridden
from training.recipe.section import LARGEST_SEED, Section, Seed, complaint, one_line
from training.recipe.settings import (
    FEWEST_PHASED_EPOCHS,
    ArchitectureSection,
    AugmentationSection,
    BaselinesSection,
    DeepSupervisionSection,
    ExitsSection,
    GenerationsSection,
    ScheduleSection,
)

BUILT_IN = Path(__file__).parent / "built_in"

NOTHING: Overrides = MappingProxyType({})

_Settings = TypeVar("_Settings", bound=Section)


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
    augmentation: AugmentationSection = AugmentationSection()
    architecture: ArchitectureSection = ArchitectureSection()
    generations: GenerationsSection = GenerationsSection()
    exits: ExitsSection = ExitsSection()
    deep_supervision: DeepSupervisionSection = DeepSupervisionSection()
    schedule: ScheduleSection = ScheduleSection()
    baselines: BaselinesSection = BaselinesSection()
    operating_points: OperatingPointsSection = OperatingPointsSection()

    @model_validator(mode="after")
    def _fits_the_way_of_training_exits(self) -> Self:
        way = self.exits.train
        if way == "frozen" and self.deep_supervision.hint_weight > 0:
            raise ValueError(
                f'deep_supervision.hint_weight: expected 0 where exits.train is "frozen", '
                f"got {self.deep_supervision.hint_weight}"
            )
        if way == "frozen-then-joint" and self.schedule.epochs < FEWEST_PHASED_EPOCHS:
            raise ValueError(
                f'schedule.epochs: expected at least {FEWEST_PHASED_EPOCHS} where exits.train is "{way}", '
                f"got {self.schedule.epochs}"
            )
        return self

    @classmethod
    def recorded(cls, text: str | bytes) -> Self:
        """Read the JSON of a recipe as runs record it, every default filled in.

        Where `exits` is missing, there was no such setting yet, and all exits were trained jointly.
        """
        return cls.model_validate({"exits": {"train": "joint"}} | json.loads(text))

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


def load_recipe(name_or_path: str, overrides: Overrides = NOTHING) -> Recipe:
    """Read a built-in recipe or a TOML file; raise RecipeError with one line naming file, key and values."""
    return read_toml(recipe_path(name_or_path), Recipe, overrides)


def read_toml(path: Path, kind: type[_Settings], overrides: Overrides = NOTHING) -> _Settings:
    """Read a TOML file as settings, some of them overridden before they are checked.

    Raises RecipeError with one line naming file, key and values; a key that was overridden has no file.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # bad TOML, or bytes that are no UTF-8
        raise RecipeError(f"{path}: expected TOML in UTF-8, got: {one_line(str(error))}") from error
    try:
        return kind.model_validate(overridden(document, kind, overrides))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        said = complaint(kind, detail)
        raise RecipeError(said if concerns(overrides, detail["loc"]) else f"{path}: {said}") from error


def first_difference(expected: Recipe, got: Recipe) -> str | None:
    """Return a line on the first key whose value differs between two recipes; None where none does."""
    old, new = flat(expected.model_dump()), flat(got.model_dump())
    for key in old:
        if old[key] != new[key] and key != "description":  # which decides nothing
            return f"{key}: expected {json.dumps(old[key])}, got {json.dumps(new[key])}"
    return None


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a section, and of all in it, by their dotted keys."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values
