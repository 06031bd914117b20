"""The plan of a study: a recipe, and the rules and seeds to compare.

A *line* is the generations of one rule with one seed. All lines of a seed share its generation 0, which no
rule affects. Every rule gets a line with the first seed. The best rules on the tune split get a line with
every seed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from training.errors import RecipeError
from training.recipe.recipe import Recipe, read_toml
from training.recipe.section import Count, Section, Seed
from training.recipe.settings import RuleName

BUILT_IN = Path(__file__).parent / "studies"
FEWEST_GENERATIONS = 2


class Study(Section):
    """A study's settings."""

    description: str = ""
    """One line for people. Default empty."""
    rules: Annotated[tuple[RuleName, ...], Field(strict=False, min_length=1)]
    """The rules to compare. No default."""
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)]
    """Seeds of generation 0. Every rule gets a line with the first one. No default."""
    repeated_rules: Count
    """Number of rules with a line for every seed: the best on tune with the first seed. No default."""
    recipe: Recipe
    """The recipe of every network. The study replaces its seed and rule."""

    @model_validator(mode="after")
    def _can_be_compared(self) -> Self:
        for key, values in (("rules", self.rules), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ValueError(f"{key}: expected each once, got {list(values)}")
        if self.repeated_rules > len(self.rules):
            raise ValueError(f"repeated_rules: expected at most {len(self.rules)}, got {self.repeated_rules}")
        if self.recipe.generations.count < FEWEST_GENERATIONS:
            raise ValueError(
                f"recipe.generations.count: expected at least {FEWEST_GENERATIONS}, "
                f"got {self.recipe.generations.count}"
            )
        if self.recipe.exits.train == "frozen":
            raise ValueError(
                "recipe.exits.train: expected 'joint', 'frozen-heads' or 'frozen-then-joint', "
                "because a study compares the recipe's own exits, got 'frozen'"
            )
        for name, goal in self.recipe.operating_points.goals.items():
            if goal.certified_by != "disagreement":
                raise ValueError(
                    f"recipe.operating_points.{name}.certified_by: expected 'disagreement', "
                    f"because a study compares networks at equal disagreement, got {goal.certified_by!r}"
                )
        return self

    @property
    def generations(self) -> int:
        """Number of generations in a line, with generation 0."""
        return self.recipe.generations.count

    @property
    def firsts(self) -> int:
        """Number of networks without a teacher."""
        return len(self.seeds)

    @property
    def successors(self) -> int:
        """Number of networks with a teacher."""
        lines = len(self.rules) + self.repeated_rules * (len(self.seeds) - 1)
        return lines * (self.generations - 1)

    def first_recipe(self, seed: int) -> Recipe:
        """Return the recipe of a seed's generation 0."""
        generations = self.recipe.generations.model_copy(update={"count": 1})
        return self.recipe.with_seed(seed).model_copy(update={"generations": generations})

    def line_recipe(self, rule: str, seed: int) -> Recipe:
        """Return the recipe of a line."""
        generations = self.recipe.generations.model_copy(update={"rule": rule})
        return self.recipe.with_seed(seed).model_copy(update={"generations": generations})


def best_rules(study: Study, tune_right: Sequence[int]) -> tuple[str, ...]:
    """Return the rules with the most correct tune rows; ties: the earlier rule.

    tune_right: number of correct tune rows of each of the study's rules.
    """
    order = sorted(range(len(study.rules)), key=lambda number: -tune_right[number])
    chosen = set(order[: study.repeated_rules])
    return tuple(rule for number, rule in enumerate(study.rules) if number in chosen)


def built_in_studies() -> dict[str, Path]:
    """List the built-in studies by name."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}


def load_study(name_or_path: str) -> Study:
    """Read a built-in study or a TOML file; raise RecipeError with file, key and values."""
    path = built_in_studies().get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise RecipeError(
            f'study "{name_or_path}": expected a built-in name ({", ".join(built_in_studies())}) '
            "or a TOML file, got neither"
        )
    return read_toml(path, Study)
