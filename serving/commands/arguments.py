"""Arguments that several commands have."""

import argparse
import re
import shlex
from pathlib import Path

from serving.console.command_parser import CommandParser

DEFAULT_REPOSITORY = Path("models")
AT_RESCAN = "a running server applies this at its next rescan: on SIGHUP, or at the next poll"


def add_model_repository(parser: CommandParser, default: Path | str = argparse.SUPPRESS) -> None:
    """Add the option `--model-repository`.

    A command suppresses its default, which would replace a value that was given before the command's name.
    """
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=default,
        metavar="DIR",
        help=f"folder of the published models (default: {DEFAULT_REPOSITORY})",
    )


def version_number(text: str) -> int:
    """Parse the number of a version."""
    if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
        raise argparse.ArgumentTypeError(f"expected the number of a version, got {text!r}")
    return int(text)


def undo_rollback(prog: str, root: Path, model: str) -> str:
    """Return the command that undoes a model's rollback."""
    repository = [] if root == DEFAULT_REPOSITORY else ["--model-repository", str(root)]
    return f"{prog} {shlex.join(['rollback', model, '--undo', *repository])}"
