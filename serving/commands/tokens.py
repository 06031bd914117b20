"""The command `token`: make a bearer token."""

import argparse
from pathlib import Path

from serving.console.command_parser import CommandParser
from serving.console.standard_streams import print_to_stderr
from serving.errors import ConfigurationError
from serving.security.permissions import Group
from serving.security.tokens import add_token, new_token, parse_groups

HELP = "make a bearer token"


def add_to(command: CommandParser) -> None:
    """Add the arguments of `token`."""
    command.description = (
        "Make a random bearer token for callers. Prints it on stdout. The server's token file holds only its "
        "SHA-256."
    )
    command.example = "dashboard --groups infer,read"
    command.add_argument("name", metavar="NAME", help="the caller's name, in logs and in the monitor")
    command.add_argument(
        "--groups",
        type=_groups,
        required=True,
        metavar="GROUPS",
        help=f"the calls that it allows, separated by commas: {', '.join(Group)}",
    )
    command.add_argument("--file", type=Path, metavar="FILE", help="token file to add the line to")
    command.set_defaults(run=lambda options: make_token(options.name, options.groups, options.file))


def make_token(name: str, groups: frozenset[Group], file: Path | None) -> int:
    """Make a token, and print it; add its line to a file, or print that too."""
    secret, token = new_token(name, groups)
    if file is None:
        print_to_stderr(f"add this line to the server's token file: {token.line()}")
    else:
        add_token(file, token)
        print_to_stderr(f"added {name} to {file}; the token below is shown only now")
    print(secret)
    return 0


def _groups(text: str) -> frozenset[Group]:
    try:
        return parse_groups(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
