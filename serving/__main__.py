"""The command line `python -m serving`: the server, and its commands verify, revoke and reinstate."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client import disable_created_metrics

# Set before gRPC is imported: otherwise its core writes to stderr directly, not through the log writer.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from serving import __version__
from serving.config import load_config
from serving.console.standard_streams import complain, run_command
from serving.errors import ConfigurationError, RepositoryError
from serving.lifecycle.logs import configure_logs
from serving.lifecycle.server import Address, Server
from serving.lifecycle.training_service import TrainingOffer
from serving.monitor import revocations
from serving.repository.manifest import EXACT_POINT, NAME_PATTERN
from serving.repository.repository import find_versions, read_version

CANNOT_START = 2
LAST_LINES_SECONDS = 1.0
"""Longest time to write the last log lines, so that a pipe that nobody reads does not block the exit."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return serve(options) if options.command is None else _run_command(options)
    except (ConfigurationError, RepositoryError) as error:
        complain(f"offramp: {error}")
        return CANNOT_START


def _run_command(options: argparse.Namespace) -> int:
    if options.command == "verify":
        return verify(options.folder)
    if options.command == "revoke":
        return revoke(options.state_dir, options.point, options.model_repository)
    return reinstate(options.state_dir, options.point)


def serve(options: argparse.Namespace) -> int:
    """Serve a model repository until a signal. Meanwhile only the log writer's thread writes to stderr."""
    writer = configure_logs(sys.stderr.fileno())
    try:
        return asyncio.run(_serve(options, lambda: writer.dropped))
    except (ConfigurationError, RepositoryError) as error:
        writer.error(f"offramp: {error}")
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
        dropped_log_lines=dropped_log_lines,
    )
    return await server.run()


def verify(root: Path) -> int:
    """Check every version in a repository and print a line for each; return 2 if one is invalid.

    Raises RepositoryError if the repository has no versions.
    """
    code = 0
    found = find_versions(root)
    if not found:
        raise RepositoryError(f"model repository {root}: expected <name>/<version>/ folders, found none")
    for name, versions in found.items():
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
TAKEN_UP = "a running server takes it up within a minute, on SIGHUP at once"


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
    print(TAKEN_UP)
    return 0


def _check_scope(scope: Scope, model_repository: Path) -> None:
    """Check a scope against the model repository; raise ConfigurationError for an unknown point.

    A model or version that the repository lacks is only noted on stderr.
    """
    model, version, point = scope
    if point == EXACT_POINT:
        raise ConfigurationError(f"{EXACT_POINT}: expected a point that lets rows leave early")
    found = find_versions(model_repository) if model_repository.is_dir() else {}
    if model not in found or version not in {None, *found[model]}:
        wanted = model if version is None else f"{model}/{version}"
        complain(f"note: {model_repository} holds no {wanted}; it is revoked all the same")
    elif point is not None:
        points = read_version(model_repository / model / str(version)).manifest.operating_points
        if point not in points:
            raise ConfigurationError(
                f'{model}/{version}: operating point: expected one of {", ".join(points)}, got "{point}"'
            )


def reinstate(state_dir: Path, scope: Scope) -> int:
    """Reinstate revoked points and print a line for each; raise ConfigurationError if none matches."""
    for each in revocations.reinstate(state_dir, *scope):
        print(f"reinstated {each.scope}, revoked {each.revoked} by the {each.by}")
    print(TAKEN_UP)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving", description="Serve multi-exit models over gRPC."
    )
    parser.add_argument("--version", action="version", version=f"offramp {__version__}")
    parser.add_argument("--model-repository", type=Path, default=Path("models"), metavar="FOLDER")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--grpc-port", type=_port, default=8001, help="0 chooses a free one (default: 8001)")
    parser.add_argument(
        "--metrics-port", type=_port, default=8002, help="0 chooses a free one (default: 8002)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "tensorrt"), default="auto")
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings, see README")
    parser.add_argument("--state-dir", type=Path, metavar="FOLDER", help="keeps revocations across restarts")
    parser.add_argument("--poll-seconds", type=_seconds, help="interval of rescans for new versions")
    parser.add_argument(
        "--enable-training", action="store_true", help="let callers start training jobs (needs torch)"
    )
    parser.add_argument(
        "--training-dir",
        type=Path,
        default=Path("runs") / "jobs",
        metavar="DIR",
        help="folder of the training jobs (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", metavar="")
    check = commands.add_parser("verify", help="check every version's manifest and digests, then exit")
    check.add_argument("folder", type=Path)
    take = commands.add_parser("revoke", help="revoke an operating point; without one, pin to full depth")
    back = commands.add_parser("reinstate", help="reinstate what was revoked")
    for command in (take, back):
        command.add_argument("point", type=_point, metavar="MODEL[/VERSION[/POINT]]")
        command.add_argument("--state-dir", type=Path, required=True, metavar="FOLDER")
    return parser


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
    # Not sys.exit: after a forced stop, workers may run in onnxruntime, which aborts at interpreter shutdown.
    os._exit(run_command(main, unwritten=CANNOT_START))
