"""The options of `python -m training retarget`."""

import argparse
from pathlib import Path

from serving.console.command_parser import CommandParser

HELP = "publish a version with another operating point, without training"


def add_model_repository(command: argparse.ArgumentParser) -> None:
    """Add the option for the folder of the published models."""
    command.add_argument(
        "--model-repository",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="folder of the published models (default: models)",
    )


def add_to(command: CommandParser) -> None:
    """Add the options of `retarget`."""
    command.description = (
        "Publish the stages of a version as the next version, with one operating point changed or added. "
        "Options that are not given keep the point's values."
    )
    command.example = "fashion-mnist 3 --point balanced --epsilon 0.005"
    command.add_argument("model", metavar="MODEL", help="the model's name in the repository")
    command.add_argument("version", type=int, metavar="VERSION", help="the version to start from")
    add_model_repository(command)
    command.add_argument(
        "--data",
        metavar="FILE",
        help="an .npz file with images x and labels y that were not used for training; all points are chosen "
        "again on it (default: the version's own data)",
    )
    command.add_argument(
        "--split-seed", type=int, metavar="N", help="seed that splits the rows of FILE (default: 0)"
    )
    command.add_argument(
        "--force", action="store_true", help="publish even if the labels of FILE do not fit the model"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="print the points that would be published, and write nothing"
    )
    command.add_argument(
        "--point", default="balanced", metavar="NAME", help="point to change or add (default: balanced)"
    )
    target = command.add_mutually_exclusive_group()
    target.add_argument(
        "--max-accuracy-loss",
        type=float,
        metavar="SHARE",
        help="largest loss of accuracy against full depth, on the tune split",
    )
    target.add_argument(
        "--budget",
        type=float,
        metavar="SHARE",
        help="largest mean of multiply-adds, as a share of full depth",
    )
    command.add_argument(
        "--epsilon",
        type=float,
        metavar="SHARE",
        help="bound to certify; with --budget the default is the smallest that can be certified",
    )
    command.add_argument(
        "--delta",
        type=float,
        metavar="SHARE",
        help="probability that the certificate is wrong (default for a new point: 0.05)",
    )
    command.add_argument(
        "--certified-by",
        choices=("disagreement", "harm", "nothing"),
        help="disagreement: answers that differ from the full network's; harm: wrong answers where the full "
        "network is right; nothing: publish without a certificate",
    )
