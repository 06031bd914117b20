"""What `python -m training attach` can be told. Knows nothing of what becomes of it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from training.retarget.options import add_model_repository

if TYPE_CHECKING:  # PyTorch takes seconds to import; a mistyped command should not wait for it
    from training.attach.settings import AttachSettings

HELP = "give a finished ONNX network early exits, and publish it"
SPLITS = ("heads", "temperature", "tune", "certify", "test")


def add_to(command: argparse.ArgumentParser) -> None:
    """Add everything that `attach` can be told."""
    command.description = (
        "Cut a finished ONNX network where exits pay, train a head at each cut to answer as the network "
        "does, certify how seldom early answers differ, and publish it. The weights stay as they are; no "
        "labels are needed. The rows must be ones that the network was NOT trained on: it agrees with "
        "itself more on rows that it knows, and every figure would be too good."
    )
    command.add_argument("model_file", metavar="MODEL.onnx", help="the finished network")
    command.add_argument(
        "--data",
        required=True,
        metavar="ROWS.npz",
        help="an array for each of the graph's inputs under its name (or x where there is one), and y where "
        "there are labels; rows that the network was not trained on",
    )
    command.add_argument("--name", required=True, metavar="NAME", help="the model's name in the repository")
    where = command.add_mutually_exclusive_group()
    where.add_argument("--exits", type=int, default=3, metavar="N", help="most early exits; default: 3")
    where.add_argument(
        "--cut",
        action="append",
        default=[],
        metavar="TENSOR",
        help="cut here, and choose nothing; may be given again",
    )
    command.add_argument(
        "--logits", metavar="TENSOR", help="the answer to reproduce, where there are several"
    )
    command.add_argument("--head", choices=("mlp", "linear"), default="mlp", help="default: mlp")
    command.add_argument(
        "--epsilon", type=float, default=0.01, metavar="SHARE", help="bound of balanced; default: 0.01"
    )
    command.add_argument(
        "--fast-epsilon", type=float, default=0.03, metavar="SHARE", help="bound of fast; default: 0.03"
    )
    command.add_argument(
        "--delta",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="chance that a certificate is wrong; default: 0.05",
    )
    command.add_argument(
        "--certified-by",
        choices=("disagreement", "harm"),
        default="disagreement",
        help="the risk: answers that differ from the network's, or that are wrong where its is right; the "
        "latter needs labels",
    )
    command.add_argument(
        "--no-augmentation",
        action="store_true",
        help="train heads on the rows alone, without mixed, shifted and mirrored copies: quicker, but heads "
        "agree less",
    )
    for split in SPLITS:
        command.add_argument(
            f"--{split}-rows", type=int, metavar="N", help="default: by what certificates need"
        )
    command.add_argument("--labels", type=Path, metavar="FILE", help="class names, one a line")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="where it works (default: runs/attach-<name>)"
    )
    add_model_repository(command)
    command.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    command.add_argument("--force", action="store_true", help="publish even where nothing is saved")


def settings(options: argparse.Namespace) -> "AttachSettings":
    """Gather what the result depends on; raise AttachError for a value that cannot be."""
    from pydantic import ValidationError

    from training.attach.heads import HeadTraining
    from training.attach.settings import AttachSettings
    from training.errors import AttachError
    from training.recipe.section import error_message

    sizes = {split: getattr(options, f"{split}_rows") for split in SPLITS}
    try:
        return AttachSettings(
            name=options.name,
            model=options.model_file,
            data=options.data,
            logits=options.logits,
            exits=options.exits,
            cuts=tuple(options.cut),
            augmentation=not options.no_augmentation,
            heads=HeadTraining(kind=options.head),
            epsilon=options.epsilon,
            fast_epsilon=options.fast_epsilon,
            delta=options.delta,
            certified_by=options.certified_by,
            split_rows={split: size for split, size in sizes.items() if size is not None},
            labels=_labels(options.labels),
            seed=options.seed,
        )
    except ValidationError as error:
        said = error_message(AttachSettings, error.errors(include_url=False)[0])
        key, separator, rest = said.partition(":")
        raise AttachError(f"--{key.replace('_', '-')}{separator}{rest}") from error


def output(options: argparse.Namespace) -> Path:
    """Return the folder that the work goes to."""
    return options.output or Path("runs") / f"attach-{options.name}"


def _labels(path: Path | None) -> tuple[str, ...]:
    from training.errors import AttachError

    if path is None:
        return ()
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise AttachError(f"--labels {path}: cannot be read: {error}") from error
