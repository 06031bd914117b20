"""The command-line options of `python -m training attach`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from training.retarget.options import add_model_repository

if TYPE_CHECKING:  # a mistyped command must not wait for the import of NumPy and pydantic
    from training.attach.settings import AttachSettings

HELP = "add early exits to a finished ONNX network and publish it"
SPLITS = ("heads", "temperature", "tune", "certify", "test")


def add_to(command: argparse.ArgumentParser) -> None:
    """Add the options of `attach` to a parser."""
    command.description = (
        "Cut a finished ONNX network into stages, and train a head at each cut to answer as the network "
        "does. Certify a bound on how often early answers differ, and publish the stages. The network's "
        "weights are not changed, and no labels are needed. The network must NOT have been trained on the "
        "rows. On its training rows, heads agree with it more often, so all figures would be too optimistic."
    )
    command.add_argument("model_file", metavar="MODEL.onnx", help="the finished network")
    command.add_argument(
        "--data",
        required=True,
        metavar="ROWS.npz",
        help="rows that the network was not trained on. One array per graph input, with the input's name (a "
        "single input may be named x). Optional labels y",
    )
    command.add_argument("--name", required=True, metavar="NAME", help="the model's name in the repository")
    cuts = command.add_mutually_exclusive_group()
    cuts.add_argument("--exits", type=int, default=3, metavar="N", help="most early exits; default: 3")
    cuts.add_argument(
        "--cut",
        action="append",
        default=[],
        metavar="TENSOR",
        help="put an exit at this tensor instead of choosing; may be repeated",
    )
    command.add_argument(
        "--logits", metavar="TENSOR", help="the logits to reproduce, if the file has several outputs"
    )
    command.add_argument("--head", choices=("mlp", "linear"), default="mlp", help="default: mlp")
    command.add_argument(
        "--epsilon",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="certified bound of balanced; default: 0.01",
    )
    command.add_argument(
        "--fast-epsilon",
        type=float,
        default=0.03,
        metavar="SHARE",
        help="certified bound of fast; default: 0.03",
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
        help="the risk: an answer that differs from the network's (disagreement), or a wrong answer where "
        "the network is right (harm, needs labels)",
    )
    command.add_argument(
        "--no-augmentation",
        action="store_true",
        help="train heads without mixed, shifted and mirrored copies of rows: faster, but heads agree less",
    )
    for split in SPLITS:
        command.add_argument(
            f"--{split}-rows", type=int, metavar="N", help="default: computed from epsilon and delta"
        )
    command.add_argument("--labels", type=Path, metavar="FILE", help="class names, one per line")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="output folder; default: runs/attach-<name>"
    )
    add_model_repository(command)
    command.add_argument("--resume", action="store_true", help="continue an interrupted run")
    command.add_argument("--force", action="store_true", help="publish even if no cost is saved")


def settings(options: argparse.Namespace) -> "AttachSettings":
    """Build the settings; raise AttachError for an invalid value."""
    from pydantic import ValidationError

    from training.attach.settings import AttachSettings, HeadTraining
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
        message = error_message(AttachSettings, error.errors(include_url=False)[0])
        key, separator, rest = message.partition(":")
        raise AttachError(f"--{key.replace('_', '-')}{separator}{rest}") from error


def output(options: argparse.Namespace) -> Path:
    """Return the output folder."""
    return options.output or Path("runs") / f"attach-{options.name}"


def _labels(path: Path | None) -> tuple[str, ...]:
    from training.errors import AttachError

    if path is None:
        return ()
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise AttachError(f"--labels {path}: cannot be read: {error}") from error
