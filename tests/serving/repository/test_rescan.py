"""Rescans: versions that are loaded, refused and closed, and their entries in the index."""

import shutil
from pathlib import Path

import pytest

from serving.errors import RepositoryError
from serving.repository.manifest import FORMAT_VERSION
from tests.serving.repository.changing_repository import Repository
from tests.serving.scripted_model import edit


def test_an_empty_repository_serves_nothing(repo: Repository) -> None:
    assert (repo.rescan(), repo.served()) == ([], [])


def test_the_highest_version_is_served(repo: Repository) -> None:
    for number in (1, 2, 10):
        repo.publish(number)

    assert (repo.rescan(), repo.served()) == ([], ["scripted/10"])


def test_a_new_version_takes_over_and_the_old_one_closes(repo: Repository) -> None:
    repo.publish(1)
    repo.rescan()
    repo.publish(2)

    assert repo.rescan() == []
    assert (repo.served(), repo.loader.closed) == (["scripted/2"], ["scripted/1"])


def test_a_rescan_without_news_changes_nothing(repo: Repository) -> None:
    repo.publish(1)
    repo.rescan()

    assert repo.rescan() == []
    assert (repo.served(), repo.loader.closed) == (["scripted/1"], [])


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
    edit(folder, format_version=FORMAT_VERSION + 1)


@pytest.mark.parametrize(
    "spoil", [_truncate, _change_stage, _remove_stage, _forget_manifest, _write_future_format]
)
def test_a_bad_new_version_is_refused_and_the_old_one_keeps_serving(repo: Repository, spoil: object) -> None:
    repo.publish(1)
    repo.rescan()
    folder = repo.publish(2)
    assert callable(spoil)
    spoil(folder)

    (refusal,) = repo.rescan()

    assert str(folder) in refusal
    assert (repo.served(), repo.loader.closed) == (["scripted/1"], [])


def test_a_version_that_does_not_load_is_refused_and_the_old_one_keeps_serving(repo: Repository) -> None:
    repo.publish(1)
    repo.rescan()
    repo.publish(2)
    repo.loader.refuses.add("scripted/2")

    assert repo.rescan() == ["scripted/2 does not load"]
    assert repo.served() == ["scripted/1"]


def test_a_refused_version_is_loaded_after_it_was_corrected(repo: Repository) -> None:
    repo.publish(2)
    repo.loader.refuses.add("scripted/2")
    repo.rescan()
    repo.loader.refuses.clear()

    assert (repo.rescan(), repo.served()) == ([], ["scripted/2"])


def test_the_failure_of_one_model_does_not_affect_others(repo: Repository) -> None:
    _truncate(repo.publish(1, "broken"))
    repo.publish(1, "works")

    assert len(repo.rescan()) == 1
    assert repo.served() == ["works/1"]


def test_a_removed_model_is_closed(repo: Repository) -> None:
    repo.publish(1)
    repo.rescan()
    shutil.rmtree(repo.root / "scripted")

    assert repo.rescan() == []
    assert (repo.served(), repo.loader.closed) == ([], ["scripted/1"])


def test_removing_the_highest_version_loads_the_next_lower_one(repo: Repository) -> None:
    repo.publish(1)
    repo.publish(2)
    repo.rescan()
    shutil.rmtree(repo.root / "scripted" / "2")

    assert repo.rescan() == []
    assert (repo.served(), repo.loader.closed) == (["scripted/1"], ["scripted/2"])


def test_a_removed_repository_keeps_its_versions_served(repo: Repository) -> None:
    repo.publish(1)
    repo.rescan()
    repo.root.rename(repo.root.with_name("moved"))

    with pytest.raises(RepositoryError):
        repo.rescan()
    assert repo.served() == ["scripted/1"]


def test_a_configured_older_version_is_served_beside_the_highest(repo: Repository) -> None:
    for number in (1, 2, 3):
        repo.publish(number)
    repository = repo.serving({"scripted": [1]})

    assert repo.rescan() == []
    assert repository.versions("scripted") == [1, 3]
    assert [repository.get("scripted"), repository.get("scripted", 1)] == ["scripted/3", "scripted/1"]


def test_a_missing_configured_version_is_refused_with_those_found(repo: Repository) -> None:
    repo.publish(2)
    repo.serving({"scripted": [1]})

    assert repo.rescan() == ['model "scripted": version 1 is configured, found [2]']


def test_a_missing_configured_model_is_refused(repo: Repository) -> None:
    repo.publish(1)
    repo.serving({"scriptd": [1]})

    assert repo.rescan() == [f'model "scriptd": configured, but not found in {repo.root}']
    assert repo.served() == ["scripted/1"]


def test_versions_are_replaced_together_or_not_at_all(repo: Repository) -> None:
    repo.publish(1)
    repo.publish(2)
    repo.serving({"scripted": [1]})
    repo.loader.refuses.add("scripted/2")

    assert len(repo.rescan()) == 1
    assert (repo.served(), repo.loader.closed) == ([], ["scripted/1"])


def test_the_index_shows_whether_each_version_is_served_and_why_not(repo: Repository) -> None:
    repo.publish(1)
    repo.publish(2)
    repo.rescan()
    _truncate(repo.publish(3))
    repo.rescan()

    entries = [(entry.version, entry.ready) for entry in repo.repository.index()]
    reasons = [entry.reason for entry in repo.repository.index()]

    assert entries == [(1, False), (2, True), (3, False)]
    assert reasons[:2] == ["not served", ""]
    assert "not valid JSON" in reasons[2]
