"""The command `models`: list the versions in a model repository."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.commands.arguments import add_model_repository, undo_rollback
from serving.console.command_parser import CommandParser
from serving.console.printable import printable
from serving.console.table import table
from serving.errors import RepositoryError
from serving.exits.points import RevokedBy
from serving.monitor.revocations import Revocations
from serving.repository.manifest import Manifest, OperatingPoint
from serving.repository.repository import find_versions, read_version
from serving.repository.rollback import Rollback, rollback_in_force

HELP = "list the versions in the model repository"
HEADER = ("model", "version", "state", "inputs", "labels", "operating points", "created")


@dataclass(frozen=True)
class ListedVersion:
    """A version on disk."""

    name: str
    number: int
    state: str
    """"serves", "rolled back", "broken", "unknown" (the rollback file is invalid), or "-" for others."""
    manifest: Manifest | None
    """None if the version is broken."""
    revoked_by: Mapping[str, RevokedBy]
    """Who revoked an operating point, by name."""
    error: str | None = None


@dataclass(frozen=True)
class ListedModel:
    """A model on disk."""

    versions: list[ListedVersion]
    rollback: Rollback | None
    """The rollback in force."""
    error: str | None
    """Why the rollback file is invalid."""


def add_to(command: CommandParser) -> None:
    """Add the options of `models`."""
    command.description = (
        "List every version in the model repository, and which one a server uses for requests without a "
        "version. The percentage after an operating point is its certified risk (epsilon)."
    )
    command.example = "--model-repository models"
    add_model_repository(command)
    command.add_argument(
        "--state-dir",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="the server's state folder, to show revoked points",
    )
    command.add_argument("--json", action="store_true", help="print a JSON object for each version")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    root = options.model_repository
    models = dict(_read(root, Revocations(options.state_dir)))
    if not models:
        print(f"{root} has no models", file=sys.stderr)
    if options.json:
        for model in models.values():
            for version in model.versions:
                print(json.dumps(_record(version)))
        return 0
    versions = [version for model in models.values() for version in model.versions]
    print("\n".join(table(HEADER, map(_cells, versions))))
    for name, model in models.items():
        for line in _notes(name, model, undo_rollback(options.prog, root, name)):
            print(printable(line))
    return 0


def _read(root: Path, revocations: Revocations) -> Iterator[tuple[str, ListedModel]]:
    for name, numbers in find_versions(root).items():
        default, rollback, error = None, None, None
        try:
            rollback = rollback_in_force(root / name, numbers)
            default = numbers[-1] if rollback is None else rollback.version
        except RepositoryError as invalid:
            error = str(invalid)
        versions = [_read_version(root, name, number, default, revocations) for number in numbers]
        yield name, ListedModel(versions, rollback, error)


def _read_version(
    root: Path, name: str, number: int, default: int | None, revocations: Revocations
) -> ListedVersion:
    """Read a version and verify its digests. default: the model's default version, None if unknown."""
    try:
        manifest = read_version(root / name / str(number)).manifest
    except RepositoryError as error:
        return ListedVersion(name, number, "broken", None, {}, str(error))
    state = "unknown"
    if default is not None:
        state = "serves" if number == default else "rolled back" if number > default else "-"
    points = manifest.operating_points
    revoked_by = {point: by for point in points if (by := revocations.revoked_by(name, number, point))}
    return ListedVersion(name, number, state, manifest, revoked_by)


def _notes(name: str, model: ListedModel, undo_command: str) -> Iterator[str]:
    """Yield a line for each problem of a model, and one for its rollback."""
    if model.error is not None:
        yield f"{name}: {model.error}"
    if model.rollback is not None:
        yield (
            f"{name}: rolled back to version {model.rollback.version} until a version above "
            f"{model.rollback.highest} is published; undo it: {undo_command}"
        )
    for version in model.versions:
        if version.error is not None:
            yield f"{name}/{version.number}: {version.error}"


def _cells(version: ListedVersion) -> tuple[object, ...]:
    manifest = version.manifest
    if manifest is None:
        return version.name, version.number, version.state, "-", "-", "-", "-"
    return (
        version.name,
        version.number,
        version.state,
        ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in manifest.inputs),
        len(manifest.labels),
        ", ".join(
            _point_in_words(name, point, version.revoked_by.get(name))
            for name, point in manifest.operating_points.items()
        ),
        manifest.created,
    )


def _point_in_words(name: str, point: OperatingPoint, revoked_by: RevokedBy | None) -> str:
    words = [name]
    if point.certificate is not None:
        words.append(f"{100 * point.certificate.epsilon:.3g} %")
        if not point.certificate.promises_agreement:
            words.append(f"({point.certificate.risk})")
    elif any(threshold is not None for threshold in point.thresholds):
        words.append("not certified")
    if revoked_by is not None:
        words.append(f"(revoked by the {revoked_by})")
    return " ".join(words)


def _record(version: ListedVersion) -> dict[str, Any]:
    """Return what `--json` prints for a version. Values of a broken version are null."""
    manifest = version.manifest
    record: dict[str, Any] = {"model": version.name, "version": version.number, "state": version.state}
    if manifest is None:
        keys = ("created", "inputs", "labels", "default_operating_point", "operating_points")
        return {**record, **dict.fromkeys(keys), "error": version.error}
    return {
        **record,
        "created": manifest.created,
        "inputs": [tensor.model_dump(mode="json") for tensor in manifest.inputs],
        "labels": len(manifest.labels),
        "default_operating_point": manifest.default_operating_point,
        "operating_points": {
            name: {
                "certificate": point.certificate and point.certificate.model_dump(mode="json"),
                "revoked_by": version.revoked_by.get(name),
            }
            for name, point in manifest.operating_points.items()
        },
        "error": None,
    }
