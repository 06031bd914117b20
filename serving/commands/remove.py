"""The command `remove`: move a version out of a model, so that it can be moved back."""

import argparse
import shlex
from pathlib import Path

from serving.commands.arguments import (
    AT_RESCAN,
    add_model_repository,
    undo_rollback,
    version_number,
)
from serving.console.command_parser import CommandParser
from serving.errors import RepositoryError
from serving.repository.removal import REMOVED_FOLDER, remove_version
from serving.repository.repository import check_version, versions_of
from serving.repository.rollback import default_version, remove_ended_rollback, rollback_in_force

HELP = "move a version out of a model"


def add_to(command: CommandParser) -> None:
    """Add the arguments of `remove`."""
    command.description = (
        f"Move a version to the folder {REMOVED_FOLDER} of the model repository, and print the command that "
        "moves it back. Its number is not used again."
    )
    command.example = "digits 1"
    command.add_argument("model", metavar="MODEL")
    command.add_argument("version", type=version_number, metavar="VERSION")
    command.add_argument("--force", action="store_true", help="remove the version even if it serves")
    add_model_repository(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    root, model = options.model_repository, options.model
    undo_command = undo_rollback(options.prog, root, model)
    return remove(root, model, options.version, undo_command, force=options.force)


def remove(root: Path, model: str, number: int, undo_command: str, *, force: bool) -> int:
    """Remove a version and print how to take it back.

    Raises RepositoryError if it is the default version, unless `force` is true; and always if the model is
    rolled back to it, because the model could then not be loaded.
    """
    folder, versions = root / model, versions_of(root, model)
    check_version(model, versions, number)
    remove_ended_rollback(folder, versions)
    effect = ""
    if number == default_version(folder, versions):
        if rollback_in_force(folder, versions) is not None:
            raise RepositoryError(f"{model} is rolled back to version {number}; undo that: {undo_command}")
        effect = _effect(root, model, [version for version in versions if version != number])
        if not force:
            raise RepositoryError(f"{model}/{number} serves; use --force to remove it ({effect})")
    removed = remove_version(root, model, number)
    print(f"removed {model}/{number}")
    print(f"take it back: {shlex.join(['mv', str(removed), str(folder / str(number))])}")
    if effect:
        print(effect)
    print(AT_RESCAN)
    return 0


def _effect(root: Path, model: str, remaining: list[int]) -> str:
    """Return which version serves among those that remain."""
    if not remaining:
        return f"{model} is not served any more"
    return f"{model}/{default_version(root / model, remaining)} serves instead"
