"""A rescan: what it takes up, refuses and closes, and what the index says of it."""

import shutil
from pathlib import Path

import pytest

from serving.errors import RepositoryError
from serving.repository.manifest import FORMAT_VERSION
from tests.serving.repository.changing_repository import Repository
from tests.serving.scripted_model import edit


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
    edit(folder, format_version=FORMAT_VERSION + 1)


@pytest.mark.parametrize(
    "spoil", [_truncate, _change_stage, _remove_stage, _forget_manifest, _write_future_format]
)
def test_a_bad_new_version_is_refused_and_the_old_one_keeps_serving(place: Repository, spoil: object) -> None:
    place.publish(1)
    place.rescan()
    folder = place.publish(2)
    assert callable(spoil)
    spoil(folder)

    (refusal,) = place.rescan()

    assert str(folder) in refusal
    assert (place.served(), place.loader.closed) == (["scripted/1"], [])


def test_a_version_that_does_not_load_is_refused_and_the_old_one_keeps_serving(place: Repository) -> None:
    place.publish(1)
    place.rescan()
    place.publish(2)
    place.loader.refuses.add("scripted/2")

    assert place.rescan() == ["scripted/2 does not load"]
    assert place.served() == ["scripted/1"]


def test_a_refused_version_is_loaded_after_it_was_corrected(place: Repository) -> None:
    place.publish(2)
    place.loader.refuses.add("scripted/2")
    place.rescan()
    place.loader.refuses.clear()

    assert (place.rescan(), place.served()) == ([], ["scripted/2"])


def test_the_failure_of_one_model_does_not_affect_others(place: Repository) -> None:
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


def test_removing_the_highest_version_loads_the_next_lower_one(place: Repository) -> None:
    place.publish(1)
    place.publish(2)
    place.rescan()
    shutil.rmtree(place.root / "scripted" / "2")

    assert place.rescan() == []
    assert (place.served(), place.loader.closed) == (["scripted/1"], ["scripted/2"])


def test_a_removed_repository_keeps_its_versions_served(place: Repository) -> None:
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


def test_a_missing_configured_version_is_refused_with_those_found(place: Repository) -> None:
    place.publish(2)
    place.serving({"scripted": [1]})

    assert place.rescan() == ['model "scripted": version 1 is configured, found [2]']


def test_a_missing_configured_model_is_refused(place: Repository) -> None:
    place.publish(1)
    place.serving({"scriptd": [1]})

    assert place.rescan() == [f'model "scriptd": configured, but not found in {place.root}']
    assert place.served() == ["scripted/1"]


def test_versions_are_replaced_together_or_not_at_all(place: Repository) -> None:
    place.publish(1)
    place.publish(2)
    place.serving({"scripted": [1]})
    place.loader.refuses.add("scripted/2")

    assert len(place.rescan()) == 1
    assert (place.served(), place.loader.closed) == ([], ["scripted/1"])


def test_the_index_shows_whether_each_version_is_served_and_why_not(place: Repository) -> None:
    place.publish(1)
    place.publish(2)
    place.rescan()
    _truncate(place.publish(3))
    place.rescan()

    entries = [(entry.version, entry.ready) for entry in place.repository.index()]
    reasons = [entry.reason for entry in place.repository.index()]

    assert entries == [(1, False), (2, True), (3, False)]
    assert reasons[:2] == ["not served", ""]
    assert "not valid JSON" in reasons[2]
