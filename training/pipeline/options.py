"""The options of `python -m training run`, and those that a resumed run must repeat."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from serving.console.command_parser import CommandParser
from training.errors import RecipeError
from training.init import options as init_options
from training.retarget.options import add_model_repository

if TYPE_CHECKING:
    from training.recipe.overrides import Overrides

HELP = "train a recipe and publish the model"


def add_to(command: CommandParser) -> None:
    """Add the options of `run`."""
    command.description = (
        "Train a recipe, export its stages to ONNX, certify its operating points and publish a version. "
        "You can interrupt it at any time and continue with --resume."
    )
    command.example = "digits --set schedule.epochs=5 --model-repository models"
    command.add_argument(
        "recipe", metavar="RECIPE", nargs="?", help="name of a built-in recipe, or the path of a TOML file"
    )
    init_options.add_data(command, required=False)
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="working folder of the run (default: runs/<recipe>)"
    )
    add_model_repository(command)
    command.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    add_allow_other_precision(command)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a setting of the recipe, such as schedule.epochs=3; VALUE is JSON, or else a string; "
        "may be repeated",
    )
    command.add_argument("--model", metavar="NAME", help="publish under this name instead of the recipe's")
    command.add_argument("--seed", type=int, metavar="N", help="use this seed instead of the recipe's")
    command.add_argument(
        "--events", type=Path, metavar="FILE", help="append the events of the run as JSON, one per line"
    )
    command.add_argument(
        "--max-memory-bytes",
        type=int,
        metavar="N",
        help="refuse the recipe if its estimated memory is larger",
    )
    command.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="interrupt the run when its standard input ends, so that it does not outlive its parent",
    )


def add_allow_other_precision(command: CommandParser) -> None:
    """Add the option that allows a run to resume in another precision."""
    command.add_argument(
        "--allow-other-precision",
        action="store_true",
        help="resume in bf16 a run that began in fp32, or the reverse; the weights then differ from those "
        "of an uninterrupted run",
    )


def check(options: argparse.Namespace) -> None:
    """Raise RecipeError unless the options name either a recipe or data."""
    if (options.recipe is None) == (options.data is None):
        got = "both" if options.recipe is not None else "neither"
        raise RecipeError(f"{options.command}: expected either RECIPE or --data, got {got}")
    if options.data is None and (options.name, options.minutes) != (None, None):
        raise RecipeError(
            f"{options.command}: expected --name and --minutes only with --data, because a recipe has its own"
        )


def output(options: argparse.Namespace) -> Path:
    """Return the working folder."""
    return options.output or Path("runs") / recipe_name(options)


def recipe_name(options: argparse.Namespace) -> str:
    """Return the recipe's name, or the name of its file without the suffix."""
    return Path(options.recipe).stem


def overrides(options: argparse.Namespace) -> "Overrides":
    """Return the settings that replace the recipe's; raise RecipeError for a key that is set twice."""
    from training.recipe.overrides import merge_assignments, read_assignment

    overlap = options.allow_overlap or None
    shortcuts = (("model", options.model), ("seed", options.seed), ("dataset.allow_overlap", overlap))
    assignments = [read_assignment(text) for text in options.set]
    return merge_assignments([*assignments, *((key, value) for key, value in shortcuts if value is not None)])


def options_to_resume(options: argparse.Namespace) -> list[str]:
    """Return the options, besides recipe and folder, that a resumed run must repeat.

    `--stop-with-stdin` and `--max-memory-bytes` are not among them: they concern one process only.
    """
    arguments = ["--model-repository", str(options.model_repository)]
    for assignment in options.set:
        arguments += ["--set", assignment]
    for flag in ("model", "seed", "events"):
        value = getattr(options, flag)
        arguments += [f"--{flag}", str(value)] if value is not None else []
    if options.allow_overlap:
        arguments.append("--allow-overlap")
    return arguments
