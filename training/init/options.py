"""The command `init`, and the options of `run` that propose a recipe."""

import argparse
from pathlib import Path

from serving.console.command_parser import CommandParser

HELP = "propose a recipe for your own data"
DEFAULT_MINUTES = 10.0


def add_to(command: CommandParser) -> None:
    """Add the options of `init`."""
    command.description = (
        "Look at your data and write a recipe with a comment for each setting: splits that can certify, a "
        "network that fits the images, and as many epochs as fit into the time. Then print the command that "
        "trains it. `run --data` does both at once."
    )
    command.example = "--data mine.npz --minutes 10"
    add_data(command, required=True)
    command.add_argument("--output", type=Path, metavar="FILE", help="the recipe file (default: NAME.toml)")
    command.add_argument("--force", action="store_true", help="overwrite the recipe file")


def add_data(command: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the options about the user's data."""
    command.add_argument(
        "--data",
        type=Path,
        required=required,
        metavar="PATH",
        help="an .npz file with x_train, y_train, x_test and y_test, or with x and y; or a folder: of images "
        "(one folder per class), of IDX files, or of CIFAR's binary files",
    )
    command.add_argument(
        "--name", metavar="NAME", help="name of the model (default: the last part of the path)"
    )
    command.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help=f"time for the whole run on this machine (default: {DEFAULT_MINUTES:g})",
    )
    command.add_argument(
        "--allow-overlap",
        action="store_true",
        help="accept official test rows that are also train rows; their accuracy is then too high",
    )
