"""Atomic publication of model versions.

A version is written to a draft folder in the model's folder and synced to disk. It is read back as a server
reads it, and renamed to its number. A rename never replaces a version: if another publisher took the number,
the next number is used. If the same version exists already, it is not published again. This happens if the
publisher was killed after the rename, before it recorded the version.

The name of a draft starts with a dot, so servers ignore it. Its publisher holds a lock in it. The next
publisher removes drafts without a lock holder.
"""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from serving.errors import RepositoryError
from serving.files import lock_file, sync
from serving.repository.manifest import MANIFEST_FILE, NAME_PATTERN, Manifest, Stage, read_manifest
from serving.repository.removal import next_version
from serving.repository.repository import file_digest, find_versions, read_version
from training.errors import Uncertified
from training.release.exported_stage import ExportedStage

_DRAFT_PREFIX, _LOCK_FILE = ".publishing-", "lock"
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}


@dataclass(frozen=True)
class PublishResult:
    """A published version."""

    folder: Path
    is_new: bool
    """False if the same version existed already."""


def stage_entry(exported: ExportedStage) -> Stage:
    """Build the manifest entry of an exported stage."""
    return Stage(
        file=exported.file.path.name,
        sha256=file_digest(exported.file.path),
        multiply_adds=exported.multiply_adds,
        parameters=exported.parameters,
        features=exported.file.features,
    )


def check_certified(manifest: Manifest, *, waived: Collection[str]) -> Manifest:
    """Return the manifest; raise Uncertified if a point faster than `exact` lacks its certificate.

    waived: points whose goals request no certificate.
    """
    for name, point in manifest.operating_points.items():
        is_faster = any(threshold is not None for threshold in point.thresholds)
        if is_faster and point.certificate is None and name not in waived:
            raise Uncertified(
                f"operating point {name!r} of {manifest.name}: expected a certificate, because it is faster "
                f'than full depth, got none; set certified_by = "nothing" to publish it without one'
            )
    return manifest


def publish(
    model_repository: Path,
    name: str,
    make_manifest: Callable[[int], Manifest],
    stage_paths: Sequence[Path],
) -> PublishResult:
    """Publish the next version of a model, unless the same version exists.

    make_manifest: takes the version number, and is called again if another publisher took that number. Raises
    RepositoryError if a server would refuse the draft. After any error, no draft is left.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"model name: expected {NAME_PATTERN}, got {name!r}")
    model_folder = model_repository / name
    model_folder.mkdir(parents=True, exist_ok=True)
    try:
        _remove_dead_drafts(model_folder)
        while True:
            number = next_version(model_repository, name)
            manifest = make_manifest(number)
            existing = published_as(model_repository, name, manifest)
            if existing is not None:
                return PublishResult(existing, is_new=False)
            if _publish_as(model_folder, number, manifest, stage_paths):
                return PublishResult(model_folder / str(number), is_new=True)
    finally:
        with contextlib.suppress(OSError):  # not empty
            model_folder.rmdir()


def published_as(model_repository: Path, name: str, manifest: Manifest) -> Path | None:
    """Return the latest version that a manifest would publish again; None if there is none."""
    versions = find_versions(model_repository).get(name, [])
    folders = (model_repository / name / str(number) for number in reversed(versions))
    return next((folder for folder in folders if _is_published_as(folder, manifest)), None)


def _is_published_as(folder: Path, manifest: Manifest) -> bool:
    """Return whether a version is intact and has the manifest's run and stages.

    Without a run id, the manifests must be equal except for number and date.
    """
    try:
        existing = read_manifest(folder / MANIFEST_FILE)
        is_same = (
            existing.provenance.run_id == manifest.provenance.run_id and existing.stages == manifest.stages
        )
        if is_same and manifest.provenance.run_id is None:
            update = {"version": existing.version, "created": existing.created}
            is_same = existing.to_json() == manifest.model_copy(update=update).to_json()
        if is_same:
            read_version(folder)
    except RepositoryError:  # damaged, or of a later format
        return False
    return is_same


def _publish_as(model_folder: Path, number: int, manifest: Manifest, stage_paths: Sequence[Path]) -> bool:
    """Publish under one number; return False if the number or the draft was taken."""
    draft_root = model_folder / f"{_DRAFT_PREFIX}{uuid.uuid4().hex}"
    draft_root.mkdir(parents=True)
    # read_version compares the names of the folders with the manifest, so the draft uses the same names.
    draft = draft_root / model_folder.name / str(number)
    try:
        lock = _lock(draft_root)
        if lock is None:
            return False
        with lock:
            _write_draft(draft, manifest, stage_paths)
            read_version(draft)
            draft.rename(model_folder / str(number))
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    finally:
        shutil.rmtree(draft_root, ignore_errors=True)
    sync(model_folder)
    sync(model_folder.parent)
    return True


def _remove_dead_drafts(model_folder: Path) -> None:
    """Remove the drafts of publishers that were killed."""
    if os.name != "posix":
        return  # file locks cannot show whether a publisher is alive
    for draft_root in model_folder.glob(f"{_DRAFT_PREFIX}*"):
        lock = _lock(draft_root)
        if lock is not None:
            with lock:
                shutil.rmtree(draft_root, ignore_errors=True)


def _lock(draft_root: Path) -> IO[bytes] | None:
    """Lock a draft; return None if another publisher holds the lock or has removed the draft."""
    try:
        return lock_file(draft_root / _LOCK_FILE)
    except FileNotFoundError:
        return None


def _write_draft(folder: Path, manifest: Manifest, stage_paths: Sequence[Path]) -> None:
    if len(stage_paths) != len(manifest.stages):
        raise ValueError(
            f"stage files: expected one per stage, {len(manifest.stages)}, got {len(stage_paths)}"
        )
    folder.mkdir(parents=True)
    for stage, source in zip(manifest.stages, stage_paths, strict=True):
        shutil.copyfile(source, folder / stage.file)
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        sync(path)
