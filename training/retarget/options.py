"""What `python -m training retarget` can be told. Knows nothing of what becomes of it."""

import argparse
from pathlib import Path

HELP = "publish a version again with another operating point, without training"


def add_model_repository(command: argparse.ArgumentParser) -> None:
    """Add the option that says where versions lie."""
    command.add_argument(
        "--model-repository", type=Path, default=Path("models"), metavar="DIR", help="default: models"
    )


def add_to(command: argparse.ArgumentParser) -> None:
    """Add everything that `retarget` can be told."""
    command.description = (
        "Publish a version's stages as the next version, with one operating point changed or added. "
        "What is not given stays as the point's own goal has it."
    )
    command.add_argument("model", metavar="MODEL")
    command.add_argument("version", type=int, metavar="VERSION")
    add_model_repository(command)
    command.add_argument(
        "--data",
        metavar="FILE",
        help="an .npz file with images x and labels y that nothing was trained on: every point is chosen and "
        "certified on them; default: the version's own data",
    )
    command.add_argument("--split-seed", type=int, metavar="N", help="cuts FILE; default: 0")
    command.add_argument("--point", default="balanced", metavar="NAME", help="may be new; default: balanced")
    target = command.add_mutually_exclusive_group()
    target.add_argument(
        "--max-accuracy-loss", type=float, metavar="SHARE", help="against full depth, on the tune split"
    )
    target.add_argument(
        "--budget", type=float, metavar="SHARE", help="mean multiply-adds, as a share of full depth's"
    )
    command.add_argument(
        "--epsilon",
        type=float,
        metavar="SHARE",
        help="the bound to certify; with --budget and without it, the smallest that can be, whatever it was; "
        "not needed where nothing is certified",
    )
    command.add_argument(
        "--delta",
        type=float,
        metavar="SHARE",
        help="chance that the certificate is wrong; for a new point 0.05",
    )
    command.add_argument(
        "--certified-by",
        choices=("disagreement", "harm", "nothing"),
        help="the risk: answers that differ from the full network's, or that are wrong where its is right",
    )
