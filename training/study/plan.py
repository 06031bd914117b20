"""What a study trains: a recipe, the rules and seeds to compare, and in which folders each goes.

A *line* is the generations of one rule with one seed. All lines of a seed share its generation 0,
which no rule touches. Every rule gets a line with the first seed; the best of them on tune get one
with every seed. Knows nothing of how a network is trained or measured.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from training.born_again.rules import RULES
from training.errors import RecipeError
from training.recipe.recipe import Recipe, read_toml
from training.recipe.section import Count, OneOf, Section, Seed

BUILT_IN = Path(__file__).parent / "studies"
FEWEST_GENERATIONS = 2


class Study(Section):
    """A whole study."""

    description: str = ""
    """One line for people. Default empty."""
    rules: Annotated[tuple[Annotated[str, OneOf(RULES)], ...], Field(strict=False, min_length=1)]
    """The rules to compare. No default."""
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)]
    """Seeds of generation 0; the first is that of every rule. No default."""
    repeated_rules: Count
    """How many rules, the best on tune with the first seed, get a line with every seed. No default."""
    recipe: Recipe
    """What every network is trained by; its seed and rule are the study's to set."""

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
                "recipe.exits.train: expected 'joint' or 'frozen-then-joint', "
                "at whose exits a study compares its networks, got 'frozen'"
            )
        for name, goal in self.recipe.operating_points.goals.items():
            if goal.certified_by != "disagreement":
                raise ValueError(
                    f"recipe.operating_points.{name}.certified_by: expected 'disagreement', "
                    f"at which a study compares its networks, got {goal.certified_by!r}"
                )
        return self

    @property
    def generations(self) -> int:
        """How many generations a line has, generation 0 among them."""
        return self.recipe.generations.count

    @property
    def firsts(self) -> int:
        """How many networks are trained without a teacher."""
        return len(self.seeds)

    @property
    def successors(self) -> int:
        """How many networks are trained under a teacher."""
        lines = len(self.rules) + self.repeated_rules * (len(self.seeds) - 1)
        return lines * (self.generations - 1)

    def first_recipe(self, seed: int) -> Recipe:
        """Return the recipe of a seed's generation 0: what no rule touches has the defaults."""
        generations = self.recipe.generations.model_copy(update={"count": 1})
        return self.recipe.with_seed(seed).model_copy(update={"generations": generations})

    def line_recipe(self, rule: str, seed: int) -> Recipe:
        """Return the recipe of a line."""
        generations = self.recipe.generations.model_copy(update={"rule": rule})
        return self.recipe.with_seed(seed).model_copy(update={"generations": generations})


def best_rules(study: Study, tune_right: Sequence[int]) -> tuple[str, ...]:
    """Return the rules to repeat: those with most tune rows right, a count a rule; ties: the earlier."""
    order = sorted(range(len(study.rules)), key=lambda number: -tune_right[number])
    chosen = set(order[: study.repeated_rules])
    return tuple(rule for number, rule in enumerate(study.rules) if number in chosen)


def built_in_studies() -> dict[str, Path]:
    """List the studies that come with the package, by name."""
    return {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}


def load_study(name_or_path: str) -> Study:
    """Read a built-in study or a TOML file; raise RecipeError with one line naming file, key and values."""
    path = built_in_studies().get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise RecipeError(
            f'study "{name_or_path}": expected a built-in name ({", ".join(built_in_studies())}) '
            "or a TOML file, got neither"
        )
    return read_toml(path, Study)
