"""Version folders on disk: which are found, read and refused."""

import hashlib
from pathlib import Path

import pytest

from serving.errors import DigestMismatch, InvalidManifest, RepositoryError
from serving.repository.repository import file_digest, find_versions, read_version
from tests.serving.repository.changing_repository import copy
from tests.serving.scripted_model import edit


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A version that the test may change."""
    return copy(published, tmp_path)


def test_a_valid_version_is_read(folder: Path) -> None:
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


def test_the_error_names_a_missing_stage_file(folder: Path) -> None:
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
def test_a_version_in_the_wrong_folder_is_refused_with_both_names(
    folder: Path, change: dict[str, object]
) -> None:
    edit(folder, **change)

    with pytest.raises(InvalidManifest, match="expected scripted/1 as in the path, got "):
        read_version(folder)


def test_versions_are_found_in_numeric_order(published: Path, tmp_path: Path) -> None:
    for number in (10, 9, 1):
        copy(published, tmp_path, version=number)

    assert find_versions(tmp_path) == {"scripted": [1, 9, 10]}


@pytest.mark.parametrize("name", ["0", "01", "-1", "1.0", "v1", "latest", ".tmp-2", "9" * 19, "\uff11"])
def test_a_folder_that_is_no_version_is_skipped(published: Path, tmp_path: Path, name: str) -> None:
    copy(published, tmp_path)
    (tmp_path / "scripted" / name).mkdir()

    assert find_versions(tmp_path) == {"scripted": [1]}


def test_files_beside_models_are_skipped(published: Path, tmp_path: Path) -> None:
    copy(published, tmp_path)
    (tmp_path / "README.md").write_text("not a model")
    (tmp_path / "scripted" / "2").write_text("not a version")

    assert find_versions(tmp_path) == {"scripted": [1]}


@pytest.mark.parametrize("name", [".hidden", "a b", "x" * 65, "ünï"])
def test_a_folder_with_an_invalid_model_name_is_skipped(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "1").mkdir(parents=True)

    assert find_versions(tmp_path) == {}


def test_a_missing_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="gone"):
        find_versions(tmp_path / "gone")
