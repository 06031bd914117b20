import hashlib
import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.errors import DigestMismatch, InvalidManifest, ModelNotFound, RepositoryError
from serving.repository.repository import (
    ModelRepository,
    PublishedVersion,
    file_digest,
    find_versions,
    read_version,
)
from tests.serving.scripted_model import make_manifest


def copy(published: Path, root: Path, name: str = "scripted", version: int = 1) -> Path:
    """Place the scripted model in a repository under another name and version."""
    folder = root / name / str(version)
    shutil.copytree(published, folder)
    (folder / "manifest.json").write_text(make_manifest(name, version, folder).to_json())
    return folder


@pytest.fixture
def published(version: PublishedVersion) -> Path:
    return version.folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A version of its own that a test may spoil."""
    return copy(published, tmp_path)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_right_version_is_read_whole(folder: Path) -> None:
    version = read_version(folder)

    assert (version.manifest.name, version.manifest.version) == ("scripted", 1)
    assert version.stage_path(2) == folder / "stage-2.onnx"


def test_a_digest_is_sha256_in_hex(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"offramp")

    assert file_digest(tmp_path / "file") == hashlib.sha256(b"offramp").hexdigest()


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stage_file_that_was_changed_is_refused_with_both_digests(folder: Path, stage: int) -> None:
    path = folder / f"stage-{stage}.onnx"
    published = file_digest(path)
    path.write_bytes(path.read_bytes() + b"\0")

    with pytest.raises(
        DigestMismatch, match=f"stage-{stage}.onnx: sha256: expected {published}, got {file_digest(path)}"
    ):
        read_version(folder)


def test_a_missing_stage_file_is_named(folder: Path) -> None:
    (folder / "stage-1.onnx").unlink()

    with pytest.raises(RepositoryError, match=r"stage-1.onnx: stage 1 "):
        read_version(folder)


def test_a_stage_file_that_is_a_link_is_refused_even_with_the_right_content(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "stage-1.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "stage-1.onnx").symlink_to(tmp_path / "elsewhere.onnx")

    with pytest.raises(RepositoryError, match=r"stage-1.onnx: stage 1"):
        read_version(folder)


def test_a_stage_file_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / "stage-1.onnx").unlink()
    (folder / "stage-1.onnx").mkdir()

    with pytest.raises(RepositoryError, match=r"stage-1.onnx: stage 1"):
        read_version(folder)


@pytest.mark.parametrize("change", [{"name": "other"}, {"version": 2}])
def test_a_version_in_the_wrong_folder_is_refused_with_both_places(
    folder: Path, change: dict[str, object]
) -> None:
    edit(folder, **change)

    with pytest.raises(InvalidManifest, match="expected scripted/1 as the folder says, got "):
        read_version(folder)


def test_versions_are_found_in_numeric_order(published: Path, tmp_path: Path) -> None:
    for number in (10, 9, 1):
        copy(published, tmp_path, version=number)

    assert find_versions(tmp_path) == {"scripted": [1, 9, 10]}


@pytest.mark.parametrize("name", ["0", "01", "-1", "1.0", "v1", "latest", ".tmp-2", "9" * 19, "\uff11"])
def test_a_folder_that_is_no_version_is_passed_over(published: Path, tmp_path: Path, name: str) -> None:
    copy(published, tmp_path)
    (tmp_path / "scripted" / name).mkdir()

    assert find_versions(tmp_path) == {"scripted": [1]}


def test_files_beside_models_are_passed_over(published: Path, tmp_path: Path) -> None:
    copy(published, tmp_path)
    (tmp_path / "README.md").write_text("not a model")
    (tmp_path / "scripted" / "2").write_text("not a version")

    assert find_versions(tmp_path) == {"scripted": [1]}


@pytest.mark.parametrize("name", [".hidden", "a b", "x" * 65, "ünï"])
def test_a_folder_with_a_name_that_no_model_may_have_is_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "1").mkdir(parents=True)

    assert find_versions(tmp_path) == {}


def test_a_repository_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="gone"):
        find_versions(tmp_path / "gone")


class Loader:
    """Loads a version as its name and number, and remembers what was closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.refuses: set[str] = set()

    def load(self, version: PublishedVersion) -> str:
        loaded = f"{version.manifest.name}/{version.manifest.version}"
        if loaded in self.refuses:
            raise RepositoryError(f"{loaded} does not load")
        return loaded


class Repository:
    """A model repository on a folder that the test changes."""

    def __init__(self, root: Path, published: Path) -> None:
        self.root, self.published, self.loader = root, published, Loader()
        self.repository = self.serving({})

    def serving(self, also: Mapping[str, Sequence[int]]) -> ModelRepository[str]:
        self.repository = ModelRepository(self.root, self.loader.load, self.loader.closed.append, also)
        return self.repository

    def publish(self, version: int, name: str = "scripted") -> Path:
        return copy(self.published, self.root, name, version)

    def rescan(self) -> list[str]:
        return [str(error) for error in self.repository.rescan()]

    def served(self) -> list[str]:
        return [loaded for _, _, loaded in self.repository.served()]


@pytest.fixture
def place(published: Path, tmp_path: Path) -> Repository:
    root = tmp_path / "models"
    root.mkdir()
    return Repository(root, published)


def test_an_empty_repository_serves_nothing(place: Repository) -> None:
    assert (place.rescan(), place.served()) == ([], [])


def test_the_highest_version_is_served(place: Repository) -> None:
    for number in (1, 2, 10):
        place.publish(number)

    assert (place.rescan(), place.served()) == ([], ["scripted/10"])


def test_a_new_version_takes_over_and_the_old_one_closes(place: Repository) -> None:
    place.publish(1)
    place.rescan()
    place.publish(2)

    assert place.rescan() == []
    assert (place.served(), place.loader.closed) == (["scripted/2"], ["scripted/1"])


def test_a_rescan_without_news_changes_nothing(place: Repository) -> None:
    place.publish(1)
    place.rescan()

    assert place.rescan() == []
    assert (place.served(), place.loader.closed) == (["scripted/1"], [])


def _truncate(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])


def _change_stage(folder: Path) -> None:
    (folder / "stage-2.onnx").write_bytes(b"")


def _remove_stage(folder: Path) -> None:
    (folder / "stage-0.onnx").unlink()


def _forget_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _write_future_format(folder: Path) -> None:
    edit(folder, format_version=2)


@pytest.mark.parametrize(
    "spoil", [_truncate, _change_stage, _remove_stage, _forget_manifest, _write_future_format]
)
def test_a_bad_new_version_is_refused_and_the_old_one_goes_on(place: Repository, spoil: object) -> None:
    place.publish(1)
    place.rescan()
    folder = place.publish(2)
    assert callable(spoil)
    spoil(folder)

    (refusal,) = place.rescan()

    assert str(folder) in refusal
    assert (place.served(), place.loader.closed) == (["scripted/1"], [])


def test_a_version_that_does_not_load_is_refused_and_the_old_one_goes_on(place: Repository) -> None:
    place.publish(1)
    place.rescan()
    place.publish(2)
    place.loader.refuses.add("scripted/2")

    assert place.rescan() == ["scripted/2 does not load"]
    assert place.served() == ["scripted/1"]


def test_a_refused_version_is_taken_up_once_it_is_mended(place: Repository) -> None:
    place.publish(2)
    place.loader.refuses.add("scripted/2")
    place.rescan()
    place.loader.refuses.clear()

    assert (place.rescan(), place.served()) == ([], ["scripted/2"])


def test_one_models_failure_leaves_the_others_alone(place: Repository) -> None:
    _truncate(place.publish(1, "broken"))
    place.publish(1, "works")

    assert len(place.rescan()) == 1
    assert place.served() == ["works/1"]


def test_a_removed_model_is_closed(place: Repository) -> None:
    place.publish(1)
    place.rescan()
    shutil.rmtree(place.root / "scripted")

    assert place.rescan() == []
    assert (place.served(), place.loader.closed) == ([], ["scripted/1"])


def test_removing_the_highest_version_brings_the_one_below_back(place: Repository) -> None:
    place.publish(1)
    place.publish(2)
    place.rescan()
    shutil.rmtree(place.root / "scripted" / "2")

    assert place.rescan() == []
    assert (place.served(), place.loader.closed) == (["scripted/1"], ["scripted/2"])


def test_a_repository_that_vanishes_keeps_what_is_served(place: Repository) -> None:
    place.publish(1)
    place.rescan()
    place.root.rename(place.root.with_name("moved"))

    with pytest.raises(RepositoryError):
        place.rescan()
    assert place.served() == ["scripted/1"]


def test_a_configured_older_version_is_served_beside_the_highest(place: Repository) -> None:
    for number in (1, 2, 3):
        place.publish(number)
    repository = place.serving({"scripted": [1]})

    assert place.rescan() == []
    assert repository.versions("scripted") == [1, 3]
    assert [repository.get("scripted"), repository.get("scripted", 1)] == ["scripted/3", "scripted/1"]


def test_a_configured_version_that_is_not_there_is_refused_with_those_found(place: Repository) -> None:
    place.publish(2)
    place.serving({"scripted": [1]})

    assert place.rescan() == ['model "scripted": version 1 is configured, found [2]']


def test_a_configured_model_that_is_not_there_is_refused(place: Repository) -> None:
    place.publish(1)
    place.serving({"scriptd": [1]})

    assert place.rescan() == [f'model "scriptd": configured, but not found in {place.root}']
    assert place.served() == ["scripted/1"]


def test_versions_swap_together_or_not_at_all(place: Repository) -> None:
    place.publish(1)
    place.publish(2)
    place.serving({"scripted": [1]})
    place.loader.refuses.add("scripted/2")

    assert len(place.rescan()) == 1
    assert (place.served(), place.loader.closed) == ([], ["scripted/1"])


@pytest.mark.parametrize("name", ["", "other", "../scripted", "scripted/1", "scripted\0", "x" * 100_000])
def test_a_name_that_is_not_served_is_not_found(place: Repository, name: str) -> None:
    place.publish(1)
    place.rescan()

    with pytest.raises(ModelNotFound, match="Request for unknown model: '"):
        place.repository.get(name)


def test_a_version_that_is_not_served_is_not_found(place: Repository) -> None:
    place.publish(1)
    place.publish(2)
    place.rescan()

    with pytest.raises(ModelNotFound, match=r"'scripted' version 1 is not found, served: \[2\]"):
        place.repository.get("scripted", 1)


def test_the_index_says_of_each_version_whether_and_why_not(place: Repository) -> None:
    place.publish(1)
    place.publish(2)
    place.rescan()
    _truncate(place.publish(3))
    place.rescan()

    entries = [(entry.version, entry.ready) for entry in place.repository.index()]
    reasons = [entry.reason for entry in place.repository.index()]

    assert entries == [(1, False), (2, True), (3, False)]
    assert reasons[:2] == ["not served", ""]
    assert "not whole JSON" in reasons[2]


def test_close_closes_all(place: Repository) -> None:
    place.publish(1)
    place.publish(1, "other")
    place.rescan()

    place.repository.close()

    assert (place.served(), sorted(place.loader.closed)) == ([], ["other/1", "scripted/1"])


def test_what_is_loaded_after_the_close_is_closed_at_once(place: Repository) -> None:
    place.publish(1)
    place.repository.close()

    place.rescan()

    assert (place.served(), place.loader.closed) == ([], ["scripted/1"])


def test_a_reader_never_meets_a_gap_while_versions_swap(place: Repository) -> None:
    place.publish(1)
    place.rescan()
    stop = threading.Event()

    def read() -> int:
        reads = 0
        while not stop.is_set():
            place.repository.get("scripted")
            reads += 1
            stop.wait(1e-4)
        return reads

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read) for _ in range(2)]
        for number in range(2, 12):
            place.publish(number)
            place.rescan()
        stop.set()

    assert all(future.result() > 0 for future in reading)
