"""A recipe: all settings of a training run, read from TOML and checked before training.

Every error is one line that names the file, the key and both values.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from serving.repository.manifest import NAME_PATTERN
from training.data.section import RECIPE_FOLDER, DatasetSection
from training.errors import RecipeError
from training.exits.goals import OperatingPointsSection
from training.recipe.overrides import Overrides, apply_overrides, is_overridden
from training.recipe.section import LARGEST_SEED, Section, Seed, error_message, one_line
from training.recipe.settings import (
    PHASES,
    ArchitectureSection,
    AugmentationSection,
    BaselinesSection,
    DeepSupervisionSection,
    ExitsSection,
    GenerationsSection,
    ScheduleSection,
)

BUILT_IN = Path(__file__).parent / "built_in"

PATH_KEYS = {"dataset.file", "dataset.data_dir"}
"""Keys of paths. A dataset takes at most one of them."""

NO_OVERRIDES: Overrides = MappingProxyType({})

_Settings = TypeVar("_Settings", bound=Section)


class Recipe(Section):
    """All settings of a training run."""

    description: str = ""
    """One line of description. Default empty."""
    model: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
    """Name of the published model. No default."""
    seed: Seed = 0
    """Seeds initial weights and batch order. Default 0."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    """PyTorch threads. Equal seeds give bitwise equal weights only with equal threads. Default 2."""
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
    def _check_exits_train(self) -> Self:
        train = self.exits.train
        if train == "frozen" and self.deep_supervision.hint_weight > 0:
            raise ValueError(
                f'deep_supervision.hint_weight: expected 0 if exits.train is "frozen", '
                f"got {self.deep_supervision.hint_weight}"
            )
        fewest = PHASES.get(train, 1)
        if self.schedule.epochs < fewest:
            raise ValueError(
                f'schedule.epochs: expected at least {fewest} if exits.train is "{train}", '
                f"got {self.schedule.epochs}"
            )
        return self

    @classmethod
    def recorded(cls, text: str | bytes) -> Self:
        """Parse the JSON of a recorded recipe, in which every default is filled in.

        A recipe that was recorded before the setting `exits` existed trained all exits jointly.
        """
        return cls.model_validate({"exits": {"train": "joint"}} | json.loads(text))

    def with_seed(self, seed: int) -> Self:
        """Return the recipe with another seed; raise RecipeError if it is out of range."""
        if not 0 <= seed <= LARGEST_SEED:
            raise RecipeError(f"seed: expected 0 to {LARGEST_SEED}, got {seed}")
        return self.model_copy(update={"seed": seed})


def built_in_recipes() -> dict[str, Path]:
    """Return the paths of the built-in recipes by name."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}


def recipe_path(name_or_path: str) -> Path:
    """Return the path of a built-in recipe or of a TOML file; raise RecipeError if there is neither."""
    built_in = built_in_recipes()
    path = built_in.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise RecipeError(
            f'recipe "{name_or_path}": expected a built-in name ({", ".join(built_in)}) or a TOML file, '
            "got neither"
        )
    return path


def load_recipe(name_or_path: str, overrides: Overrides = NO_OVERRIDES) -> Recipe:
    """Read a built-in recipe or a TOML file; raise RecipeError if it is not valid."""
    return read_toml(recipe_path(name_or_path), Recipe, overrides)


def read_toml(path: Path, kind: type[_Settings], overrides: Overrides = NO_OVERRIDES) -> _Settings:
    """Read a TOML file, apply overrides and check the result; raise RecipeError if it is not valid.

    Paths in the file are relative to its folder; an overridden path is relative to the working directory.
    The error names the file, unless the value was overridden.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # not TOML or not UTF-8
        raise RecipeError(f"{path}: expected TOML in UTF-8, got: {one_line(str(error))}") from error
    try:
        context = {} if PATH_KEYS & overrides.keys() else {RECIPE_FOLDER: path.parent.resolve()}
        return kind.model_validate(apply_overrides(document, kind, overrides), context=context)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        message = error_message(kind, detail)
        if not is_overridden(overrides, detail["loc"]):
            message = f"{path}: {message}"
        raise RecipeError(message) from error


def parse_recipe(text: str, folder: Path) -> Recipe:
    """Parse the TOML text of a recipe, whose relative paths begin at a folder; raise RecipeError."""
    try:
        return Recipe.model_validate(tomllib.loads(text), context={RECIPE_FOLDER: folder.resolve()})
    except ValidationError as error:
        raise RecipeError(error_message(Recipe, error.errors(include_url=False)[0])) from error


def first_difference(expected: Recipe, got: Recipe) -> str | None:
    """Return a line about the first key with different values; None if the recipes are equal."""
    expected_values, values = flatten(expected.model_dump()), flatten(got.model_dump())
    for key, value in expected_values.items():
        if value != values[key] and key != "description":  # a description has no effect
            return f"{key}: expected {json.dumps(value)}, got {json.dumps(values[key])}"
    return None


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a section and its subsections by dotted key."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        values |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values
