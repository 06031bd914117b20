"""Removed versions: where they are, and that their numbers are not used again."""

from pathlib import Path

import pytest

from serving.errors import RepositoryError
from serving.repository.removal import next_version, remove_version
from serving.repository.repository import find_versions
from serving.repository.rollback import Rollback, write_rollback
from tests.serving.repository.changing_repository import Repository


def test_a_removed_version_is_not_found_by_readers(repo: Repository) -> None:
    repo.publish(1)
    repo.publish(2)
    repo.rescan()

    removed = remove_version(repo.root, "scripted", 1)

    assert (removed, removed.is_dir()) == (repo.root / ".removed" / "scripted" / "1", True)
    assert find_versions(repo.root) == {"scripted": [2]}
    assert (repo.rescan(), repo.served()) == ([], ["scripted/2"])


def test_a_number_that_was_removed_before_gets_a_suffix(repo: Repository) -> None:
    removed = []
    for _ in range(3):
        repo.publish(1)
        removed.append(remove_version(repo.root, "scripted", 1).name)

    assert removed == ["1", "1-2", "1-3"]
    assert len(list((repo.root / ".removed" / "scripted").iterdir())) == 3


def test_a_version_that_does_not_exist_is_an_error_in_one_line(repo: Repository) -> None:
    with pytest.raises(RepositoryError, match=r"scripted/1: cannot be moved to .*: No such file"):
        remove_version(repo.root, "scripted", 1)


def test_the_first_version_is_1(repo: Repository) -> None:
    assert next_version(repo.root, "scripted") == 1


def test_the_next_version_is_above_those_that_exist_or_were_removed(repo: Repository) -> None:
    for number in (1, 2, 3):
        repo.publish(number)
    repo.publish(9, "other")
    remove_version(repo.root, "scripted", 3)

    assert next_version(repo.root, "scripted") == 4
    repo.publish(3)
    remove_version(repo.root, "scripted", 3)
    remove_version(repo.root, "scripted", 1)
    remove_version(repo.root, "scripted", 2)
    assert next_version(repo.root, "scripted") == 4


def test_a_number_that_a_rollback_names_is_not_used_again(repo: Repository) -> None:
    """Version 3 was deleted by hand. A new version 3 would not serve."""
    for number in (1, 2):
        repo.publish(number)
    write_rollback(repo.root / "scripted", Rollback.model_validate({"version": 1, "from": 3}))

    assert next_version(repo.root, "scripted") == 4


@pytest.mark.parametrize("name", ["notes.txt", "x-3", "03", "9-"])
def test_other_entries_beside_removed_versions_are_skipped(repo: Repository, name: str) -> None:
    repo.publish(1)
    remove_version(repo.root, "scripted", 1)
    Path(repo.root / ".removed" / "scripted" / name).mkdir()

    assert next_version(repo.root, "scripted") == 2
