"""The command-line options of `python -m training run`, and the arguments that resume a run."""

import argparse
from pathlib import Path

from training.recipe.overrides import Overrides, merge_assignments, read_assignment
from training.retarget.options import add_model_repository

HELP = "train a recipe and publish the model"


def add_to(command: argparse.ArgumentParser) -> None:
    """Add all options of `run`."""
    command.add_argument(
        "recipe", metavar="RECIPE", help="a built-in recipe's name, or the path of a TOML file"
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="the run's folder (default: runs/<recipe>)"
    )
    add_model_repository(command)
    command.add_argument("--resume", action="store_true", help="resume the run in the folder")
    add_allow_other_precision(command)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a value of the recipe, such as schedule.epochs=3; "
        "VALUE is JSON or a string; repeatable",
    )
    command.add_argument("--model", metavar="NAME", help="override the recipe's model: the name to publish")
    command.add_argument("--seed", type=int, metavar="N", help="override the recipe's seed")
    command.add_argument(
        "--events", type=Path, metavar="FILE", help="append events to a file, one JSON object per line"
    )
    command.add_argument(
        "--max-memory-bytes",
        type=int,
        metavar="N",
        help="refuse a recipe with a larger memory estimate, before training",
    )
    command.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="interrupt the run when its standard input ends, so that it ends with its parent process",
    )


def add_allow_other_precision(command: argparse.ArgumentParser) -> None:
    """Add the option to resume in another precision than the training began in."""
    command.add_argument(
        "--allow-other-precision",
        action="store_true",
        help="resume in bf16 a training that began in fp32, or the reverse, on another processor; the "
        "weights will differ from those of a single processor",
    )


def overrides(options: argparse.Namespace) -> Overrides:
    """Return the overrides of the recipe; raise RecipeError if a key is given twice."""
    shortcuts = (("model", options.model), ("seed", options.seed))
    assignments = [read_assignment(text) for text in options.set]
    return merge_assignments([*assignments, *((key, value) for key, value in shortcuts if value is not None)])


def resume_arguments(options: argparse.Namespace) -> list[str]:
    """Return the arguments that resume a run, except the recipe and --output.

    --stop-with-stdin and --max-memory-bytes are not repeated: they depend on the program that starts the run.
    """
    arguments = ["--model-repository", str(options.model_repository)]
    for assignment in options.set:
        arguments += ["--set", assignment]
    for flag in ("model", "seed", "events"):
        value = getattr(options, flag)
        arguments += [f"--{flag}", str(value)] if value is not None else []
    return arguments
