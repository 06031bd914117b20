"""Publishes a model version whole or not at all.

A version is written into a draft beside the others, read back as a server would read it, flushed to
disk, and then takes its place by one rename. A rename never replaces a version: where another
publisher was faster, the next number is taken. A draft's name starts with a dot, so no server takes
it for a version. Knows nothing of what the stages compute.
"""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serving.repository.manifest import MANIFEST_FILE, NAME_PATTERN, Manifest, Stage
from serving.repository.repository import file_digest, find_versions, read_version
from training.errors import Uncertified

if TYPE_CHECKING:  # a version is published again where there is no PyTorch too
    from training.release.export import ExportedStage

_DRAFT_PREFIX = ".publishing-"
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY}


def stage_entry(exported: "ExportedStage") -> Stage:
    """Describe an exported stage as the manifest does."""
    return Stage(
        file=exported.file.path.name,
        sha256=file_digest(exported.file.path),
        multiply_adds=exported.multiply_adds,
        parameters=exported.parameters,
        features=exported.file.features,
    )


def check_certified(manifest: Manifest, *, waived: Collection[str]) -> Manifest:
    """Give the manifest back, or raise Uncertified where a faster point than `exact` promises nothing.

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
) -> Path:
    """Publish the next version of a model and return its folder.

    make_manifest is given the version number, and is asked again where that was taken meanwhile.
    Raises RepositoryError where the draft would not be served; whatever goes wrong, nothing is left.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"model name: expected {NAME_PATTERN}, got {name!r}")
    home = model_repository / name
    home.mkdir(parents=True, exist_ok=True)
    try:
        while True:
            number = find_versions(model_repository).get(name, [0])[-1] + 1
            if _publish_as(home, number, make_manifest(number), stage_paths):
                return home / str(number)
    finally:
        with contextlib.suppress(OSError):  # a home with something in it stays
            home.rmdir()


def _publish_as(home: Path, number: int, manifest: Manifest, stage_paths: Sequence[Path]) -> bool:
    """Publish under one number; False where that is taken by now."""
    draft_root = home / f"{_DRAFT_PREFIX}{uuid.uuid4().hex}"
    # The reader checks that the folders' names are the manifest's, so the draft has them too.
    draft = draft_root / home.name / str(number)
    try:
        _write_draft(draft, manifest, stage_paths)
        read_version(draft)
        draft.rename(home / str(number))
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    finally:
        shutil.rmtree(draft_root, ignore_errors=True)
    _flush(home)
    return True


def _write_draft(folder: Path, manifest: Manifest, stage_paths: Sequence[Path]) -> None:
    if len(stage_paths) != len(manifest.stages):
        raise ValueError(f"stage files: expected {len(manifest.stages)}, one a stage, got {len(stage_paths)}")
    folder.mkdir(parents=True)
    for stage, source in zip(manifest.stages, stage_paths, strict=True):
        shutil.copyfile(source, folder / stage.file)
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        _flush(path)


def _flush(path: Path) -> None:
    """Have a file or folder on the disk itself before going on."""
    if os.name != "posix":
        return  # only POSIX flushes through what was opened to read, and opens folders at all
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
