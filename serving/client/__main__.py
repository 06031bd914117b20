"""The command line of the client: `predict`, `points`, `health`, and the commands of training jobs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from serving.client import points_command, predict_command, training_commands
from serving.client.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_SECONDS, Tls
from serving.client.inference import Client
from serving.console.command_parser import CommandParser, add_version, module_program
from serving.console.printable import printable
from serving.console.standard_streams import print_error, run_command
from serving.errors import OfframpError

PROG = module_program(__spec__)
FAILED = 1


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run a command; return 0 if it succeeded, 1 if it failed."""
    options = _parser(prog).parse_args(arguments)
    try:
        with options.client(
            options.address,
            timeout_seconds=options.timeout_seconds,
            tls=_tls(options),
            token=None if options.token_file is None else options.token_file.read_text().strip(),
        ) as client:
            return int(options.run(client, options))
    except BrokenPipeError:
        raise
    except (OfframpError, OSError, ValueError) as error:
        print_error(printable(str(error)))
        return FAILED


def run_program(arguments: Sequence[str] | None = None, prog: str = PROG) -> NoReturn:
    """Run a command as the whole process."""
    sys.exit(run_command(lambda: main(arguments, prog), unwritten=FAILED))


def _tls(options: argparse.Namespace) -> Tls | None:
    """Return the TLS files; None without TLS. Each of --ca, --cert and --key implies --tls."""
    tls = Tls(options.ca, options.cert, options.key)
    return tls if options.tls or tls != Tls() else None


def _health(client: Client, _: argparse.Namespace) -> int:
    healthy = client.healthy()
    print("serving" if healthy else "not serving")
    return 0 if healthy else FAILED


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(
        prog=prog,
        description="Send requests to an Offramp server.",
        example="health --address 127.0.0.1:8001",
    )
    parser.set_defaults(prog=prog)
    add_version(parser)
    shared = CommandParser(add_help=False)
    shared.add_argument(
        "--address", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="default: %(default)s"
    )
    shared.add_argument(
        "--timeout-seconds",
        type=float,
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="S",
        help="longest wait for an answer (default: %(default)g)",
    )
    shared.add_argument("--tls", action="store_true", help="encrypt the connection")
    shared.add_argument(
        "--ca", type=Path, metavar="FILE", help="authority that signed the server's certificate"
    )
    shared.add_argument("--cert", type=Path, metavar="FILE", help="the client's certificate, with --key")
    shared.add_argument("--key", type=Path, metavar="FILE", help="key of the client's certificate")
    shared.add_argument("--token-file", type=Path, metavar="FILE", help="file that contains a bearer token")
    shared.set_defaults(client=Client)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict_command.add_to(commands.add_parser("predict", parents=[shared], help=predict_command.HELP))
    points_command.add_to(commands.add_parser("points", parents=[shared], help=points_command.HELP))
    health = commands.add_parser(
        "health", parents=[shared], help="exit with 0 if the server accepts calls", example=""
    )
    health.set_defaults(run=_health)
    training_commands.add_to(commands, shared)
    return parser


if __name__ == "__main__":
    run_program()
