"""The options of `python -m training study`."""

import argparse
from pathlib import Path

from serving.console.command_parser import CommandParser
from training.pipeline.options import add_allow_other_precision

HELP = "compare rules, generations and seeds, and write a page"


def add_to(command: CommandParser) -> None:
    """Add the options of `study`."""
    command.description = (
        "Train many networks under one recipe and write a page that compares rules, generations and seeds."
    )
    command.example = "fashion-mnist --output runs/study"
    command.add_argument(
        "study", metavar="STUDY", help="name of a built-in study, or the path of a TOML file"
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="working folder (default: runs/study-<study>)"
    )
    command.add_argument(
        "--page",
        type=Path,
        metavar="DIR",
        help="folder of the page and its data (default: docs/studies/<study>)",
    )
    command.add_argument("--resume", action="store_true", help="continue the study in the output folder")
    add_allow_other_precision(command)


def output(options: argparse.Namespace) -> Path:
    """Return the working folder."""
    return options.output or Path("runs") / f"study-{Path(options.study).stem}"


def options_to_resume(options: argparse.Namespace) -> list[str]:
    """Return the options, besides study and folder, that a resumed study must repeat."""
    return [] if options.page is None else ["--page", str(options.page)]
