"""Finds published versions on disk, checks them, and serves them.

Layout: `<root>/<name>/<version>/`, where versions are positive integers. The default version of a name and
the versions that the configuration lists are served. The default version is the highest, unless the model was
rolled back. Independent of onnxruntime: the functions that try, load and close a version are arguments.

Invariants
- A version is served only after its manifest and all stage files were verified, it passed its trial, and
  its loader returned.
- If a new version fails, the old one keeps serving.
- A rescan never waits for a trial. The first rescan after the trial loads the version.
"""

import hashlib
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.errors import DigestMismatch, InvalidManifest, InvalidRequest, RepositoryError, shown
from serving.repository.manifest import MANIFEST_FILE, NAME_PATTERN, Manifest, read_manifest
from serving.repository.rollback import default_version, rollback_reason
from serving.repository.served_models import Loaded, ServedModel, ServedModels

TrialResult = Future[str | None]
"""The result of a version's trial: the reason to refuse the version, or None."""


@dataclass(frozen=True)
class PublishedVersion:
    """A version folder with a valid manifest and matching digests."""

    folder: Path
    manifest: Manifest

    def stage_path(self, stage: int) -> Path:
        """Return the path of a stage's ONNX file."""
        return self.folder / self.manifest.stages[stage].file


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_versions(root: Path) -> dict[str, list[int]]:
    """Return the version numbers of each model name, ascending; skip other entries."""
    if not root.is_dir():
        raise RepositoryError(f"model repository {root}: expected a folder, got none")
    try:
        folders = sorted(root.iterdir())
    except OSError as error:
        raise RepositoryError(f"model repository {root}: cannot be read: {error.strerror}") from error
    found = {
        folder.name: _versions_in(folder) for folder in folders if re.fullmatch(NAME_PATTERN, folder.name)
    }
    return {name: versions for name, versions in found.items() if versions}


def versions_of(root: Path, model: str) -> list[int]:
    """Return the versions of a model, ascending; raise RepositoryError if the repository lacks the model."""
    versions = find_versions(root)
    if model not in versions:
        known = ", ".join(versions) or "none"
        raise RepositoryError(
            f'model repository {root}: expected one of its models ({known}), got "{shown(model)}"'
        )
    return versions[model]


def check_version(model: str, versions: list[int], number: int) -> None:
    """Raise RepositoryError if a model lacks a version."""
    if number not in versions:
        known = ", ".join(map(str, versions))
        raise RepositoryError(f'model "{model}": expected one of versions {known}, got {number}')


def _versions_in(folder: Path) -> list[int]:
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):  # a plain file, or removed since it was listed
        return []
    except OSError as error:
        raise RepositoryError(f"model folder {folder}: cannot be read: {error.strerror}") from error
    return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,17}", name))


def parse_version(text: str) -> int | None:
    """Parse a version from a request; return None if it is empty, which means the default version."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InvalidRequest(f"failed to get model version from specified version string '{text}'")
    return int(text)


def read_version(folder: Path) -> PublishedVersion:
    """Read a version folder and verify its manifest, its names, and the digest of each stage file."""
    manifest = read_manifest(folder / MANIFEST_FILE)
    expected, actual = f"{folder.parent.name}/{folder.name}", f"{manifest.name}/{manifest.version}"
    if actual != expected:
        raise InvalidManifest(
            f"{folder / MANIFEST_FILE}: name and version: expected {expected} as in the path, got {actual}"
        )
    version = PublishedVersion(folder, manifest)
    for number, stage in enumerate(manifest.stages):
        path = version.stage_path(number)
        try:
            is_regular = stat.S_ISREG(path.lstat().st_mode)
            digest = file_digest(path) if is_regular else ""
        except OSError as error:
            raise RepositoryError(f"{path}: stage {number} cannot be read: {error.strerror}") from error
        if not is_regular:
            raise RepositoryError(f"{path}: stage {number}: expected a regular file, got something else")
        if digest != stage.sha256:
            raise DigestMismatch(f"{path}: sha256: expected {stage.sha256}, got {digest}")
    return version


@dataclass(frozen=True)
class IndexEntry:
    """An entry of the repository's index: a version on disk, and whether it is served."""

    name: str
    version: int
    ready: bool
    reason: str


class ModelRepository(ServedModels[Loaded]):
    """The served models of a folder; `rescan` loads new versions and drops removed ones."""

    def __init__(
        self,
        root: Path,
        load: Callable[[PublishedVersion], Loaded],
        close: Callable[[Loaded], None],
        also_serve: Mapping[str, Sequence[int]] | None = None,
        start_trial: Callable[["PublishedVersion"], TrialResult] | None = None,
    ) -> None:
        """Start without versions; call `rescan` to load them.

        also_serve: versions to serve besides the default, by name. start_trial: starts the trial of a
        version, or returns its result if it was started before; None disables trials.
        """
        super().__init__(close)
        self._start_trial = start_trial
        self.on_trial: Sequence[TrialResult] = ()
        """Results that were still pending at the last rescan."""
        self._root = root
        self._load = load
        self._also_serve = also_serve or {}
        self._reasons: dict[tuple[str, int], str] = {}
        self._rescanning = threading.Lock()

    def rescan(self) -> list[RepositoryError]:
        """Load new versions, drop removed ones, and return an error for each model that was refused.

        Blocks while versions load. A model that fails keeps its served versions, and does not affect
        other models.
        """
        on_trial: list[TrialResult] = []
        with self._rescanning:
            try:
                return self._update_all(on_trial)
            finally:
                self.on_trial = on_trial

    def _update_all(self, on_trial: list[TrialResult]) -> list[RepositoryError]:
        found = find_versions(self._root)
        refused = [
            RepositoryError(f'model "{name}": configured, but not found in {self._root}')
            for name in sorted(set(self._also_serve) - set(found))
        ]
        for name, versions in found.items():
            try:
                self._update(name, versions, on_trial)
            except RepositoryError as error:
                # A copy, because the traceback's frames reference the failed sessions and this list.
                refused.append(type(error)(*error.args))
        for name in set(self._served) - set(found):
            self._swap(name, ServedModel())
        return refused

    def _update(self, name: str, versions: list[int], on_trial: list[TrialResult]) -> None:
        """Serve the default and the configured versions of a name, unless a trial is pending.

        Pending trials are added to `on_trial`.
        """
        current = self._model(name).versions
        default = default_version(self._root / name, versions)
        selected = self._select(name, versions, default)
        published = {number: self._read(name, number) for number in selected if number not in current}
        if not self._have_passed(published.values(), on_trial):
            return
        fresh: dict[int, Loaded] = {}
        try:
            for number, version in published.items():
                fresh[number] = self._open(version)
        except BaseException:
            for loaded in fresh.values():
                self._close(loaded)
            raise
        self._swap(name, ServedModel(default, {number: {**current, **fresh}[number] for number in selected}))

    def _select(self, name: str, versions: list[int], default: int) -> list[int]:
        also = self._also_serve.get(name, ())
        missing = sorted(set(also) - set(versions))
        if missing:
            raise RepositoryError(f'model "{name}": version {missing[0]} is configured, found {versions}')
        return sorted({default, *also})

    def _read(self, name: str, number: int) -> PublishedVersion:
        with self._recording_refusal(name, number):
            return read_version(self._root / name / str(number))

    def _have_passed(self, published: Iterable[PublishedVersion], on_trial: list[TrialResult]) -> bool:
        """Return whether all versions passed their trials; start trials that were not started.

        Raises RepositoryError if a version failed its trial.
        """
        if self._start_trial is None:
            return True
        results = [(version.manifest, self._start_trial(version)) for version in published]
        pending = 0
        for manifest, result in results:
            if not result.done():
                self._reasons[manifest.name, manifest.version] = "on trial"
                on_trial.append(result)
                pending += 1
            elif (reason := result.result()) is not None:
                with self._recording_refusal(manifest.name, manifest.version):
                    raise RepositoryError(reason)
        return not pending

    def _open(self, version: PublishedVersion) -> Loaded:
        name, number = version.manifest.name, version.manifest.version
        with self._recording_refusal(name, number):
            loaded = self._load(version)
        self._reasons.pop((name, number), None)
        return loaded

    @contextmanager
    def _recording_refusal(self, name: str, number: int) -> Iterator[None]:
        """Record the reason of a refusal for the index."""
        try:
            yield
        except RepositoryError as error:
            self._reasons[name, number] = str(error)
            raise

    def index(self) -> list[IndexEntry]:
        """Return every version on disk with its state, as in Triton's repository index."""
        entries = []
        for name, versions in find_versions(self._root).items():
            ready = self.versions(name)
            for number in versions:
                reason = "" if number in ready else self._why_not_served(name, number, versions)
                entries.append(IndexEntry(name, number, number in ready, reason))
        return entries

    def _why_not_served(self, name: str, number: int, versions: list[int]) -> str:
        rolled_back = rollback_reason(self._root / name, versions) if number == versions[-1] else None
        return rolled_back or self._reasons.get((name, number), "not served")
