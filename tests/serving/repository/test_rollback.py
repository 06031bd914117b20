"""A rolled-back model: which version serves, when the rollback ends, and what an invalid file does."""

import os
from pathlib import Path

import pytest

from serving.errors import RepositoryError
from serving.repository.rollback import (
    ROLLBACK_FILE,
    Rollback,
    default_version,
    read_rollback,
    remove_rollback,
    write_rollback,
)
from tests.serving.repository.changing_repository import Repository


def roll_back(repo: Repository, version: int, highest: int) -> Path:
    """Roll the model back; return the file."""
    folder = repo.root / "scripted"
    write_rollback(folder, Rollback.model_validate({"version": version, "from": highest}))
    return folder / ROLLBACK_FILE


@pytest.fixture
def rolled_back(repo: Repository) -> Repository:
    """A model with versions 1 to 3 that was rolled back to version 1."""
    for number in (1, 2, 3):
        repo.publish(number)
    roll_back(repo, 1, 3)
    return repo


def test_the_file_has_the_documented_keys(rolled_back: Repository) -> None:
    folder = rolled_back.root / "scripted"

    assert (folder / ROLLBACK_FILE).read_text() == '{"version":1,"from":3}\n'
    assert read_rollback(folder) == Rollback.model_validate({"version": 1, "from": 3})


def test_a_rollback_before_the_start_serves_its_version(rolled_back: Repository) -> None:
    assert (rolled_back.rescan(), rolled_back.served()) == ([], ["scripted/1"])


def test_a_rescan_applies_a_rollback_and_closes_the_newer_version(repo: Repository) -> None:
    repo.publish(1)
    repo.publish(2)
    repo.rescan()
    roll_back(repo, 1, 2)

    assert repo.rescan() == []
    assert (repo.served(), repo.loader.closed) == (["scripted/1"], ["scripted/2"])


def test_a_newer_version_ends_a_rollback(rolled_back: Repository) -> None:
    rolled_back.rescan()
    rolled_back.publish(4)

    assert (rolled_back.rescan(), rolled_back.served()) == ([], ["scripted/4"])


def test_removing_the_file_ends_a_rollback(rolled_back: Repository) -> None:
    rolled_back.rescan()
    remove_rollback(rolled_back.root / "scripted")

    assert (rolled_back.rescan(), rolled_back.served()) == ([], ["scripted/3"])


def test_a_rollback_changes_the_default_among_versions_that_are_served(rolled_back: Repository) -> None:
    repository = rolled_back.serving({"scripted": [3]})
    rolled_back.rescan()

    assert repository.versions("scripted") == [1, 3]
    assert repository.get("scripted") == "scripted/1"

    remove_rollback(rolled_back.root / "scripted")
    rolled_back.rescan()

    assert repository.get("scripted") == "scripted/3"


def test_the_index_names_the_rollback_as_the_reason_of_the_highest_version(rolled_back: Repository) -> None:
    rolled_back.rescan()

    reasons = {entry.version: entry.reason for entry in rolled_back.repository.index()}

    assert reasons == {1: "", 2: "not served", 3: "rolled back to version 1"}


def test_a_rollback_to_a_bad_version_is_refused_and_the_newer_one_keeps_serving(repo: Repository) -> None:
    (repo.publish(1) / "stage-0.onnx").write_bytes(b"")
    repo.publish(2)
    repo.rescan()
    roll_back(repo, 1, 2)

    (refusal,) = repo.rescan()

    assert "stage-0.onnx: sha256: expected" in refusal
    assert (repo.served(), repo.loader.closed) == (["scripted/2"], [])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object, got []"),
        ('{"version": 1}', "from: Field required"),
        ('{"version": "1", "from": 3}', "version: Input should be a valid integer, got '1'"),
        ('{"version": 0, "from": 3}', "version: "),
        ('{"version": 1, "from": 3, "why": "slow"}', "why: unknown key"),
        ('{"version": 7, "from": 9}', "version: expected one of [1, 2, 3], got 7"),
    ],
)
def test_an_invalid_file_is_refused_in_one_line_and_nothing_changes(
    rolled_back: Repository, content: str, complaint: str
) -> None:
    rolled_back.rescan()
    file = rolled_back.root / "scripted" / ROLLBACK_FILE
    file.write_text(content)

    (refusal,) = rolled_back.rescan()

    assert refusal.startswith(f"{file}: ")
    assert complaint in refusal
    assert "\n" not in refusal
    assert (rolled_back.served(), rolled_back.loader.closed) == (["scripted/1"], [])
    assert {entry.version: entry.reason for entry in rolled_back.repository.index()}[3] == refusal


def test_an_invalid_file_affects_no_other_model(rolled_back: Repository) -> None:
    rolled_back.publish(1, "other")
    (rolled_back.root / "scripted" / ROLLBACK_FILE).write_text("{")

    assert len(rolled_back.rescan()) == 1
    assert rolled_back.served() == ["other/1"]


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
def test_a_pipe_is_refused_without_blocking(repo: Repository) -> None:
    repo.publish(1)
    os.mkfifo(repo.root / "scripted" / ROLLBACK_FILE)

    with pytest.raises(RepositoryError, match=r"rollback\.json: expected a regular file"):
        default_version(repo.root / "scripted", [1])


def test_a_rollback_that_ended_may_name_a_version_that_was_removed(repo: Repository) -> None:
    repo.publish(5)
    roll_back(repo, 1, 3)

    assert (repo.rescan(), repo.served()) == ([], ["scripted/5"])
