"""The command `rollback`: an older version serves until a newer one is published."""

import argparse
from pathlib import Path

from serving.commands.arguments import (
    AT_RESCAN,
    add_model_repository,
    undo_rollback,
    version_number,
)
from serving.console.command_parser import CommandParser
from serving.errors import RepositoryError
from serving.repository.repository import check_version, read_version, versions_of
from serving.repository.rollback import Rollback, default_version, remove_rollback, write_rollback

HELP = "serve an older version until a newer one is published"


def add_to(command: CommandParser) -> None:
    """Add the arguments of `rollback`."""
    command.description = (
        "Serve an older version of a model until a newer one is published. Writes MODEL/rollback.json in the "
        "model repository."
    )
    command.example = "digits 1"
    command.add_argument("model", metavar="MODEL")
    target = command.add_mutually_exclusive_group(required=True)
    target.add_argument("version", nargs="?", type=version_number, metavar="VERSION")
    target.add_argument("--undo", action="store_true", help="serve the highest version again")
    add_model_repository(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    root, model = options.model_repository, options.model
    if options.undo:
        return undo(root, model)
    return roll_back(root, model, options.version, undo_rollback(options.prog, root, model))


def roll_back(root: Path, model: str, number: int, undo_command: str) -> int:
    """Make an older version the default, and print how to undo that.

    The highest version undoes a rollback. Raises RepositoryError if the version does not exist or is damaged.
    """
    versions = versions_of(root, model)
    check_version(model, versions, number)
    if number == versions[-1]:
        return undo(root, model)
    read_version(root / model / str(number))
    if number == _current_default(root / model, versions):
        print(f"{model}: version {number} serves already; nothing changed")
        return 0
    write_rollback(root / model, Rollback.model_validate({"version": number, "from": versions[-1]}))
    print(f"{model}: version {number} serves until a version above {versions[-1]} is published")
    print(f"undo it: {undo_command}")
    print(AT_RESCAN)
    return 0


def undo(root: Path, model: str) -> int:
    """Make the highest version the default. Remove the rollback file also if it is invalid or has ended."""
    versions = versions_of(root, model)
    default = _current_default(root / model, versions)
    remove_rollback(root / model)
    if default == versions[-1]:
        print(f"{model}: version {default} serves already; nothing changed")
        return 0
    print(f"{model}: version {versions[-1]} serves again")
    print(AT_RESCAN)
    return 0


def _current_default(model_folder: Path, versions: list[int]) -> int | None:
    """Return the default version; None if the rollback file is invalid."""
    try:
        return default_version(model_folder, versions)
    except RepositoryError:
        return None
