"""What `python -m training run` can be told, and the line that takes up a run told the same.

Knows nothing of what a run does.
"""

import argparse
from pathlib import Path

from training.recipe.overrides import Overrides, merge_assignments, read_assignment
from training.retarget.options import add_model_repository

HELP = "train a recipe and publish what comes of it"


def add_to(command: argparse.ArgumentParser) -> None:
    """Add everything that `run` can be told."""
    command.add_argument(
        "recipe", metavar="RECIPE", help="a built-in recipe's name, or the path of a TOML file"
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="the run's folder (default: runs/<recipe>)"
    )
    add_model_repository(command)
    command.add_argument("--resume", action="store_true", help="go on with the run that the folder holds")
    add_allow_other_precision(command)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replaces a value of the recipe, such as schedule.epochs=3; VALUE is JSON, or else a string; "
        "may be given again",
    )
    command.add_argument("--model", metavar="NAME", help="replaces the recipe's model: the name to publish")
    command.add_argument("--seed", type=int, metavar="N", help="replaces the recipe's seed, and nothing else")
    command.add_argument(
        "--events", type=Path, metavar="FILE", help="appends what happens, a JSON object a line"
    )
    command.add_argument(
        "--max-memory-bytes",
        type=int,
        metavar="N",
        help="refuses a recipe that is estimated to need more memory, before it trains",
    )
    command.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="interrupts the run when its standard input ends: it never outlives who started it",
    )


def add_allow_other_precision(command: argparse.ArgumentParser) -> None:
    """Add the option that lets a run go on in another precision than its processor chose first."""
    command.add_argument(
        "--allow-other-precision",
        action="store_true",
        help="resume in bf16 what was trained in fp32, or the reverse, on another processor: the weights "
        "will not be those that one processor gives",
    )


def overrides(options: argparse.Namespace) -> Overrides:
    """Gather what replaces the recipe's own values; raise RecipeError for a key that is given twice."""
    named = (("model", options.model), ("seed", options.seed))
    assignments = [read_assignment(text) for text in options.set]
    return merge_assignments([*assignments, *((key, value) for key, value in named if value is not None)])


def told(options: argparse.Namespace) -> list[str]:
    """Return the words that a run must be told again to be the same run, but for recipe and folder.

    Whose standard input it ends with, and how much memory it may need, are not among them: they are for who
    starts it to say.
    """
    words = ["--model-repository", str(options.model_repository)]
    for assignment in options.set:
        words += ["--set", assignment]
    for flag in ("model", "seed", "events"):
        value = getattr(options, flag)
        words += [f"--{flag}", str(value)] if value is not None else []
    return words
