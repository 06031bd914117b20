"""The command line of the server and of the operator's commands."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from serving.commands import models, monitoring, remove, revocation, rollback, tokens, verify
from serving.commands.arguments import DEFAULT_REPOSITORY, add_model_repository
from serving.console.command_parser import USAGE_ERROR, CommandParser, add_version
from serving.console.extras import requires_extra
from serving.console.standard_streams import print_error, run_command
from serving.errors import ConfigurationError, RepositoryError

PROG = f"python -m {__name__.removesuffix('.commands.program')}"


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run a command and return the exit code. Without a command, or with `serve`, run the server."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["serve"]:
        options = _server_parser(f"{prog} serve").parse_args(words[1:])
    else:
        options = _parser(prog).parse_args(words)
    try:
        return int(options.run(options))
    except (ConfigurationError, RepositoryError) as error:
        print_error(error)
        return USAGE_ERROR


def run_program(arguments: Sequence[str] | None = None, prog: str = PROG) -> NoReturn:
    """Run a command as the whole process."""
    # Not sys.exit: after a forced stop, workers may run in onnxruntime, which aborts at interpreter shutdown.
    os._exit(run_command(lambda: main(arguments, prog), unwritten=USAGE_ERROR))


def _serve(options: argparse.Namespace) -> int:
    # The server's modules take a third of a second to import; other commands should not wait for it.
    with requires_extra(options.prog, "serving"):
        from serving.lifecycle.process import serve
    return serve(options)


def _parser(prog: str) -> CommandParser:
    """Build the parser of the server and its commands."""
    parser = _server_parser(prog)
    commands = parser.add_subparsers(title="commands, instead of the server", metavar="COMMAND")
    models.add_to(commands.add_parser("models", help=models.HELP))
    verify.add_to(commands.add_parser("verify", help=verify.HELP))
    rollback.add_to(commands.add_parser("rollback", help=rollback.HELP))
    remove.add_to(commands.add_parser("remove", help=remove.HELP))
    revocation.add_revoke_to(commands.add_parser("revoke", help=revocation.REVOKE_HELP))
    revocation.add_reinstate_to(commands.add_parser("reinstate", help=revocation.REINSTATE_HELP))
    tokens.add_to(commands.add_parser("token", help=tokens.HELP))
    monitoring.add_to(commands.add_parser("monitoring", help=monitoring.HELP))
    return parser


def _server_parser(prog: str) -> CommandParser:
    parser = CommandParser(
        prog=prog,
        description="Serve multi-exit models over gRPC. Prints one line when ready; logs to stderr.",
        example="--model-repository models",
    )
    parser.set_defaults(run=_serve, prog=prog)
    add_version(parser)
    add_model_repository(parser, DEFAULT_REPOSITORY)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="HOST", help="address to listen on (default: 127.0.0.1)"
    )
    for name, default in (("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(
            f"--{name}-port",
            type=_port,
            default=default,
            metavar="PORT",
            help=f"0 chooses a free port (default: {default})",
        )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "tensorrt"),
        default="auto",
        help="auto: CUDA if a model runs on it, else the CPU (default)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="settings; environment variables override them: see docs/serving.md",
    )
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="folder that keeps revocations across restarts"
    )
    parser.add_argument(
        "--poll-seconds", type=_seconds, metavar="S", help="look for new versions every S seconds"
    )
    parser.add_argument(
        "--enable-training", action="store_true", help="let callers start training jobs (needs torch)"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="offer training to other machines without tokens"
    )
    parser.add_argument(
        "--training-dir",
        type=Path,
        default=Path("runs") / "jobs",
        metavar="DIR",
        help="folder of the training jobs (default: runs/jobs)",
    )
    return parser


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port, 0 to 65535, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}")
    return seconds
