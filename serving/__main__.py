"""The command line `python -m serving`: the server, and its commands verify, revoke and reinstate."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from prometheus_client import disable_created_metrics

# Set before gRPC is imported: otherwise its core writes to stderr directly, not through the log writer.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from serving.config import load_config
from serving.console.command_parser import CommandParser, add_version
from serving.console.standard_streams import ERROR_PREFIX, print_error, print_to_stderr, run_command
from serving.errors import ConfigurationError, RepositoryError
from serving.lifecycle.logs import configure_logs
from serving.lifecycle.server import Address, Server
from serving.lifecycle.training_service import TrainingOffer
from serving.monitor import revocations
from serving.repository.manifest import EXACT_POINT, NAME_PATTERN
from serving.repository.repository import find_versions, read_version
from serving.security.permissions import Group
from serving.security.tokens import add_token, new_token, parse_groups

PROG = "python -m serving"
CANNOT_START = 2
LAST_LINES_SECONDS = 1.0
"""Longest time to write the last log lines, so that a pipe that nobody reads does not block the exit."""


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
        return CANNOT_START


def run_program(arguments: Sequence[str] | None = None, prog: str = PROG) -> NoReturn:
    """Run a command as the whole process."""
    # Not sys.exit: after a forced stop, workers may run in onnxruntime, which aborts at interpreter shutdown.
    os._exit(run_command(lambda: main(arguments, prog), unwritten=CANNOT_START))


def serve(options: argparse.Namespace) -> int:
    """Serve a model repository until a signal stops it. Only the log writer's thread writes to stderr."""
    writer = configure_logs(sys.stderr.fileno())
    try:
        return asyncio.run(_serve(options, lambda: writer.dropped))
    except (ConfigurationError, RepositoryError) as error:
        writer.error(f"{ERROR_PREFIX}{error}")
        return CANNOT_START
    finally:
        writer.close(LAST_LINES_SECONDS)


async def _serve(options: argparse.Namespace, dropped_log_lines: Callable[[], int]) -> int:
    # Otherwise each counter would have a second series with its creation time.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    server = Server(
        options.model_repository,
        Address(options.host, options.grpc_port, options.metrics_port),
        device=options.device,
        config=load_config(options.config),
        poll_seconds=options.poll_seconds,
        state_dir=options.state_dir,
        training=TrainingOffer(options.training_dir) if options.enable_training else None,
        insecure=options.insecure,
        dropped_log_lines=dropped_log_lines,
    )
    return await server.run()


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
                code = CANNOT_START
            else:
                print(f"ok {name}/{number}: {len(version.manifest.stages)} stages")
    return code


Scope = tuple[str, int | None, str | None]
"""A model, a version of it and a point of the version; None means all."""
WHEN_APPLIED = "a running server applies this within a minute, or at once on SIGHUP"


def revoke(state_dir: Path, scope: Scope, model_repository: Path) -> int:
    """Revoke an operating point, or pin a model or one of its versions to full depth."""
    _check_scope(scope, model_repository)
    model, version, point = scope
    entry = revocations.revoke(state_dir, *scope)
    if point is None:
        versions = "all its versions, also later ones" if version is None else f"version {version}"
        print(f"pinned {model} to {EXACT_POINT}: every operating point of {versions}, since {entry.revoked}")
    else:
        print(f"revoked {entry.scope}, since {entry.revoked}")
    print(WHEN_APPLIED)
    return 0


def _check_scope(scope: Scope, model_repository: Path) -> None:
    """Check a scope against the model repository; raise ConfigurationError for an unknown point.

    For a model or version that the repository lacks, only print a note to stderr.
    """
    model, version, point = scope
    if point == EXACT_POINT:
        raise ConfigurationError(f"{EXACT_POINT}: expected a point that lets rows leave early")
    versions = find_versions(model_repository) if model_repository.is_dir() else {}
    if model not in versions or version not in {None, *versions[model]}:
        missing = model if version is None else f"{model}/{version}"
        print_to_stderr(f"note: {model_repository} has no {missing}; the revocation is written anyway")
    elif point is not None:
        points = read_version(model_repository / model / str(version)).manifest.operating_points
        if point not in points:
            raise ConfigurationError(
                f'{model}/{version}: operating point: expected one of {", ".join(points)}, got "{point}"'
            )


def reinstate(state_dir: Path, scope: Scope) -> int:
    """Reinstate revoked points and print a line for each; raise ConfigurationError if none matches."""
    for entry in revocations.reinstate(state_dir, *scope):
        print(f"reinstated {entry.scope}, revoked {entry.revoked} by the {entry.by}")
    print(WHEN_APPLIED)
    return 0


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


def _parser(prog: str) -> CommandParser:
    """Build the parser of the server and its commands."""
    parser = _server_parser(prog)
    commands = parser.add_subparsers(title="commands, instead of the server", metavar="COMMAND")
    check = commands.add_parser("verify", help="check the files of every version", example="models")
    check.description = "Read every version's manifest and compare its files with the digests in it."
    check.add_argument("folder", type=Path, metavar="FOLDER", help="the model repository")
    check.set_defaults(run=lambda options: verify(options.folder))
    revoking = commands.add_parser("revoke", help="stop the use of an operating point")
    revoking.description = (
        "Stop the use of an operating point; requests for it then use a safer one. Without a point, every "
        "point of the version or model uses full depth."
    )
    revoking.set_defaults(
        run=lambda options: revoke(options.state_dir, options.point, options.model_repository)
    )
    reinstating = commands.add_parser("reinstate", help="allow a revoked operating point again")
    reinstating.description = "Reinstate one point, or every revoked point of a version or a model."
    reinstating.set_defaults(run=lambda options: reinstate(options.state_dir, options.point))
    for command in (revoking, reinstating):
        command.example = "fashion-mnist/2/fast --state-dir state"
        command.add_argument("point", type=_point, metavar="MODEL[/VERSION[/POINT]]")
        command.add_argument(
            "--state-dir", type=Path, required=True, metavar="DIR", help="the server's state folder"
        )
    token = commands.add_parser("token", help="make a bearer token", example="dashboard --groups infer,read")
    token.description = (
        "Make a random bearer token for callers. Prints it on stdout. The server's token file holds only its "
        "SHA-256."
    )
    token.add_argument("name", metavar="NAME", help="the caller's name, in logs and in the monitor")
    token.add_argument(
        "--groups",
        type=_groups,
        required=True,
        metavar="GROUPS",
        help=f"the calls that it allows, separated by commas: {', '.join(Group)}",
    )
    token.add_argument("--file", type=Path, metavar="FILE", help="token file to add the line to")
    token.set_defaults(run=lambda options: make_token(options.name, options.groups, options.file))
    # SUPPRESS: without it, this option's default would replace a value that was given before the command.
    _add_model_repository(revoking, default=argparse.SUPPRESS)
    return parser


def _server_parser(prog: str) -> CommandParser:
    parser = CommandParser(
        prog=prog,
        description="Serve multi-exit models over gRPC. Prints one line when ready; logs to stderr.",
        example="--model-repository models",
    )
    parser.set_defaults(run=serve)
    add_version(parser)
    _add_model_repository(parser, default=Path("models"))
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
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings: see docs/serving.md")
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


def _add_model_repository(parser: CommandParser, default: Path | str) -> None:
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=default,
        metavar="DIR",
        help="folder of the published models (default: models)",
    )


def _groups(text: str) -> frozenset[Group]:
    try:
        return parse_groups(text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _point(text: str) -> Scope:
    model, *rest = text.split("/")
    if (
        not re.fullmatch(NAME_PATTERN, model)
        or len(rest) > len(("version", "point"))
        or (rest and not re.fullmatch(r"[1-9][0-9]*", rest[0]))
    ):
        raise argparse.ArgumentTypeError(
            f"expected MODEL, MODEL/VERSION or MODEL/VERSION/POINT, got {text!r}"
        )
    version, point = [*rest, None, None][:2]
    return model, None if version is None else int(version), point


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


if __name__ == "__main__":
    run_program()
