"""Writes a proposed recipe to a file."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from serving.files import atomic_write
from serving.repository.manifest import NAME_PATTERN, NAME_RULE
from training.errors import RecipeError
from training.init.proposal import Proposal, check_minutes, propose
from training.init.source import model_name, open_dataset
from training.reporting.numerals import duration, plain


def recipe_file(data: Path, name: str | None) -> Path:
    """Return the file of a proposed recipe: the model's name in the working directory."""
    return Path(f"{name or model_name(data)}.toml")


def check_target(path: Path, *, force: bool, train: str) -> None:
    """Raise RecipeError unless a recipe can be written to a path.

    force: an existing file is overwritten. train: the command that trains a recipe, for the message.
    """
    if path.suffix != ".toml":  # a name without it could be that of a built-in recipe
        raise RecipeError(f"{path}: expected a file that ends in .toml")
    if not path.parent.is_dir():
        raise RecipeError(f"{path}: expected a file in a folder, got no folder {path.parent}")
    if path.exists() and not force:
        raise RecipeError(
            f"{path}: expected no such file, because a recipe is written there; to train the one that "
            f"exists: {train} {shlex.quote(str(path))}; or choose another --name, or overwrite it with "
            "init --force"
        )


def write_proposal(
    data: Path,
    path: Path,
    *,
    name: str | None,
    minutes: float,
    allow_overlap: bool,
    force: bool,
    train: str,
    say: Callable[[str], None],
) -> Proposal:
    """Propose a recipe for a dataset and write it; raise RecipeError if the file exists.

    force: overwrite the file. train: the command that trains a recipe. say: receives lines of progress.
    """
    check_target(path, force=force, train=train)
    check_minutes(minutes)
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        raise RecipeError(f"--name: expected {NAME_RULE}, got {name!r}")
    dataset = open_dataset(data)
    proposal = propose(
        dataset,
        name or model_name(data),
        path.parent,
        minutes=minutes,
        allow_overlap=allow_overlap,
        say=say,
    )
    with atomic_write(path) as file:
        file.write(proposal.text.encode())
    for line in proposal.facts:
        say(line)
    say(plain(f"wrote {path}: about {duration(proposal.seconds)} on this machine"))
    return proposal
