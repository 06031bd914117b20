"""The command-line options of `python -m training retarget`."""

import argparse
from pathlib import Path

HELP = "publish a version again with another operating point, without training"


def add_model_repository(command: argparse.ArgumentParser) -> None:
    """Add the option for the folder of published versions."""
    command.add_argument(
        "--model-repository", type=Path, default=Path("models"), metavar="DIR", help="default: models"
    )


def add_to(command: argparse.ArgumentParser) -> None:
    """Add all options of `retarget`."""
    command.description = (
        "Publish a version's stages as the next version, with one operating point changed or added. "
        "Options that are not given keep their values from the point's goal."
    )
    command.add_argument("model", metavar="MODEL")
    command.add_argument("version", type=int, metavar="VERSION")
    add_model_repository(command)
    command.add_argument(
        "--data",
        metavar="FILE",
        help="an .npz file with images x and labels y, not used for training; every point is chosen and "
        "certified on them; default: the version's own data",
    )
    command.add_argument(
        "--split-seed", type=int, metavar="N", help="seed that cuts the splits of FILE; default: 0"
    )
    command.add_argument(
        "--point", default="balanced", metavar="NAME", help="the point to change or add; default: balanced"
    )
    target = command.add_mutually_exclusive_group()
    target.add_argument(
        "--max-accuracy-loss",
        type=float,
        metavar="SHARE",
        help="largest loss against full depth, on the tune split",
    )
    target.add_argument(
        "--budget", type=float, metavar="SHARE", help="largest mean multiply-adds, as a share of full depth"
    )
    command.add_argument(
        "--epsilon",
        type=float,
        metavar="SHARE",
        help="the bound to certify; default with --budget: the smallest possible; not needed with "
        "--certified-by nothing",
    )
    command.add_argument(
        "--delta",
        type=float,
        metavar="SHARE",
        help="chance that the certificate is wrong; default for a new point: 0.05",
    )
    command.add_argument(
        "--certified-by",
        choices=("disagreement", "harm", "nothing"),
        help="the risk: answers that differ from the full network's, or answers that are wrong where the "
        "full network is right",
    )
