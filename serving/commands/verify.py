"""The command `verify`: check the files of every version."""

from pathlib import Path

from serving.console.command_parser import CommandParser
from serving.errors import RepositoryError
from serving.repository.repository import find_versions, read_version

HELP = "check the files of every version"
INVALID_VERSION = 2


def add_to(command: CommandParser) -> None:
    """Add the argument of `verify`."""
    command.description = "Read every version's manifest and compare its files with the digests in it."
    command.example = "models"
    command.add_argument("folder", type=Path, metavar="FOLDER", help="the model repository")
    command.set_defaults(run=lambda options: verify(options.folder))


def verify(root: Path) -> int:
    """Check every version in a repository and print a line for each; return 2 if one is invalid.

    Raises RepositoryError if the repository has no versions.
    """
    code = 0
    versions_by_model = find_versions(root)
    if not versions_by_model:
        raise RepositoryError(f"model repository {root}: expected <name>/<version>/ folders, found none")
    for name, versions in versions_by_model.items():
        for number in versions:
            try:
                version = read_version(root / name / str(number))
            except RepositoryError as error:
                print(f"WRONG {name}/{number}: {error}")
                code = INVALID_VERSION
            else:
                print(f"ok {name}/{number}: {len(version.manifest.stages)} stages")
    return code
