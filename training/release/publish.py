"""Publishes a model version whole or not at all, and once.

A version is written into a draft beside the others, read back as a server would read it, synced to
disk, and then takes its place by one rename. A rename never replaces a version: where another
publisher was faster, the next number is taken. A version that is there already, as a publisher leaves it
that was killed behind the rename, is found and not published again. A draft's name starts with a dot, so
no server takes it for a version. Its publisher holds a lock in it; the next one removes drafts without.
Knows nothing of what the stages compute.
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
from serving.repository.manifest import MANIFEST_FILE, NAME_PATTERN, Manifest, Stage, read_manifest
from serving.repository.repository import file_digest, find_versions, read_version
from training.errors import Uncertified
from training.files.file_lock import lock_file
from training.files.whole_file import sync
from training.release.exported_stage import ExportedStage

_DRAFT_PREFIX, _LOCK_FILE = ".publishing-", "lock"
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}


@dataclass(frozen=True)
class PublishResult:
    """A version's folder, and whether it was published now or before."""

    folder: Path
    is_new: bool


def stage_entry(exported: ExportedStage) -> Stage:
    """Describe an exported stage as the manifest does."""
    return Stage(
        file=exported.file.path.name,
        sha256=file_digest(exported.file.path),
        multiply_adds=exported.multiply_adds,
        parameters=exported.parameters,
        features=exported.file.features,
    )


def check_certified(manifest: Manifest, *, waived: Collection[str]) -> Manifest:
    """Return the manifest, or raise Uncertified where a faster point than `exact` promises nothing.

    waived are the points of which no promise was asked.
    """
    for name, point in manifest.operating_points.items():
        is_faster = any(threshold is not None for threshold in point.thresholds)
        if is_faster and point.certificate is None and name not in waived:
            raise Uncertified(
                f"operating point {name!r} of {manifest.name}: expected a certificate, for it is faster than "
                f'full depth, got none; only certified_by = "nothing" lets it do without'
            )
    return manifest


def publish(
    model_repository: Path,
    name: str,
    make_manifest: Callable[[int], Manifest],
    stage_paths: Sequence[Path],
) -> PublishResult:
    """Publish the next version of a model, unless there is the same one already.

    make_manifest is given the version number, and is asked again where that was taken meanwhile.
    Raises RepositoryError where the draft would not be served; whatever goes wrong, nothing is left.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"model name: expected {NAME_PATTERN}, got {name!r}")
    home = model_repository / name
    home.mkdir(parents=True, exist_ok=True)
    try:
        _remove_dead_drafts(home)
        while True:
            versions = find_versions(model_repository).get(name, [])
            number = max(versions, default=0) + 1
            manifest = make_manifest(number)
            for before in reversed(versions):
                if _is_published_as(home / str(before), manifest):
                    return PublishResult(home / str(before), is_new=False)
            if _publish_as(home, number, manifest, stage_paths):
                return PublishResult(home / str(number), is_new=True)
    finally:
        with contextlib.suppress(OSError):  # a home with something in it stays
            home.rmdir()


def _is_published_as(folder: Path, manifest: Manifest) -> bool:
    """Whether a version is whole, and of the same run and stages; without a run it must say the same."""
    try:
        there = read_manifest(folder / MANIFEST_FILE)
        is_same = there.provenance.run_id == manifest.provenance.run_id and there.stages == manifest.stages
        if is_same and manifest.provenance.run_id is None:
            update = {"version": there.version, "created": there.created}
            is_same = there.to_json() == manifest.model_copy(update=update).to_json()
        if is_same:
            read_version(folder)
    except RepositoryError:  # damaged, or of a later format
        return False
    return is_same


def _publish_as(home: Path, number: int, manifest: Manifest, stage_paths: Sequence[Path]) -> bool:
    """Publish under one number; False where that is taken by now, or the draft was."""
    draft_root = home / f"{_DRAFT_PREFIX}{uuid.uuid4().hex}"
    draft_root.mkdir(parents=True)
    # The reader checks that the folders' names are the manifest's, so the draft has them too.
    draft = draft_root / home.name / str(number)
    try:
        lock = _lock(draft_root)
        if lock is None:
            return False
        with lock:
            _write_draft(draft, manifest, stage_paths)
            read_version(draft)
            draft.rename(home / str(number))
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    finally:
        shutil.rmtree(draft_root, ignore_errors=True)
    sync(home)
    sync(home.parent)
    return True


def _remove_dead_drafts(home: Path) -> None:
    """Remove the drafts that no publisher holds: those of killed ones."""
    if os.name != "posix":
        return  # where nobody can tell
    for draft_root in home.glob(f"{_DRAFT_PREFIX}*"):
        lock = _lock(draft_root)
        if lock is not None:
            with lock:
                shutil.rmtree(draft_root, ignore_errors=True)


def _lock(draft_root: Path) -> IO[bytes] | None:
    """Lock a draft; None where another publisher holds it or has removed it, both of which one may do."""
    try:
        return lock_file(draft_root / _LOCK_FILE)
    except FileNotFoundError:
        return None


def _write_draft(folder: Path, manifest: Manifest, stage_paths: Sequence[Path]) -> None:
    if len(stage_paths) != len(manifest.stages):
        raise ValueError(f"stage files: expected {len(manifest.stages)}, one a stage, got {len(stage_paths)}")
    folder.mkdir(parents=True)
    for stage, source in zip(manifest.stages, stage_paths, strict=True):
        shutil.copyfile(source, folder / stage.file)
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        sync(path)
