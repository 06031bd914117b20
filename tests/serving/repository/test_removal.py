"""Removed versions: where they are, and that their numbers are not used again."""

from pathlib import Path

import pytest

from serving.errors import RepositoryError
from serving.repository.removal import next_version, remove_version
from serving.repository.repository import find_versions
from tests.serving.repository.changing_repository import Repository


def test_a_removed_version_is_not_found_by_readers(place: Repository) -> None:
    place.publish(1)
    place.publish(2)
    place.rescan()

    removed = remove_version(place.root, "scripted", 1)

    assert (removed, removed.is_dir()) == (place.root / ".removed" / "scripted" / "1", True)
    assert find_versions(place.root) == {"scripted": [2]}
    assert (place.rescan(), place.served()) == ([], ["scripted/2"])


def test_a_number_that_was_removed_before_gets_a_suffix(place: Repository) -> None:
    removed = []
    for _ in range(3):
        place.publish(1)
        removed.append(remove_version(place.root, "scripted", 1).name)

    assert removed == ["1", "1-2", "1-3"]
    assert len(list((place.root / ".removed" / "scripted").iterdir())) == 3


def test_a_version_that_does_not_exist_is_an_error_in_one_line(place: Repository) -> None:
    with pytest.raises(RepositoryError, match=r"scripted/1: cannot be moved to .*: No such file"):
        remove_version(place.root, "scripted", 1)


def test_the_first_version_is_1(place: Repository) -> None:
    assert next_version(place.root, "scripted") == 1


def test_the_next_version_is_above_those_that_exist_or_were_removed(place: Repository) -> None:
    for number in (1, 2, 3):
        place.publish(number)
    place.publish(9, "other")
    remove_version(place.root, "scripted", 3)

    assert next_version(place.root, "scripted") == 4
    place.publish(3)
    remove_version(place.root, "scripted", 3)
    remove_version(place.root, "scripted", 1)
    remove_version(place.root, "scripted", 2)
    assert next_version(place.root, "scripted") == 4


@pytest.mark.parametrize("name", ["notes.txt", "x-3", "03", "9-"])
def test_other_entries_beside_removed_versions_are_skipped(place: Repository, name: str) -> None:
    place.publish(1)
    remove_version(place.root, "scripted", 1)
    Path(place.root / ".removed" / "scripted" / name).mkdir()

    assert next_version(place.root, "scripted") == 2
