"""The commands `revoke` and `reinstate`: stop the use of operating points, and allow it again."""

import argparse
import re
from pathlib import Path

from serving.commands.arguments import add_model_repository
from serving.console.command_parser import CommandParser
from serving.console.standard_streams import print_to_stderr
from serving.errors import ConfigurationError
from serving.monitor import revocations
from serving.repository.manifest import EXACT_POINT, NAME_PATTERN
from serving.repository.repository import find_versions, read_version

REVOKE_HELP = "stop the use of an operating point"
REINSTATE_HELP = "allow a revoked operating point again"
WHEN_APPLIED = "a running server applies this within a minute, or at once on SIGHUP"

Scope = tuple[str, int | None, str | None]
"""A model, a version of it and a point of the version; None means all."""


def add_revoke_to(command: CommandParser) -> None:
    """Add the arguments of `revoke`."""
    command.description = (
        "Stop the use of an operating point; requests for it then use a safer one. Without a point, every "
        "point of the version or model uses full depth."
    )
    _add_scope(command)
    add_model_repository(command)
    command.set_defaults(
        run=lambda options: revoke(options.state_dir, options.point, options.model_repository)
    )


def add_reinstate_to(command: CommandParser) -> None:
    """Add the arguments of `reinstate`."""
    command.description = "Reinstate one point, or every revoked point of a version or a model."
    _add_scope(command)
    command.set_defaults(run=lambda options: reinstate(options.state_dir, options.point))


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


def reinstate(state_dir: Path, scope: Scope) -> int:
    """Reinstate revoked points and print a line for each; raise ConfigurationError if none matches."""
    for entry in revocations.reinstate(state_dir, *scope):
        print(f"reinstated {entry.scope}, revoked {entry.revoked} by the {entry.by}")
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


def _add_scope(command: CommandParser) -> None:
    command.example = "fashion-mnist/3/fast --state-dir state"
    command.add_argument("point", type=_scope, metavar="MODEL[/VERSION[/POINT]]")
    command.add_argument(
        "--state-dir", type=Path, required=True, metavar="DIR", help="the server's state folder"
    )


def _scope(text: str) -> Scope:
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
