"""`python -m training study` from the command line."""

import shutil
from pathlib import Path

import pytest

from training.__main__ import INTERRUPTED, MISTAKE, main
from training.born_again.checkpoint import WEIGHTS_FILE
from training.pipeline.output_folder import hold
from training.study import conduct as conduct_module
from training.study.page import PAGE_FILE, RECORD_FILE
from training.study.record import StudyRecord


def arguments(study_file: Path, place: Path, *more: str) -> list[str]:
    return ["study", str(study_file), "--output", str(place / "run"), "--page", str(place / "page"), *more]


@pytest.fixture(scope="module")
def place(record: StudyRecord, study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `run` holds the trained networks of the study."""
    place = tmp_path_factory.mktemp("studied")
    shutil.copytree(study_folder, place / "run")
    return place


def test_a_study_shows_the_remaining_time_before_and_during_training(
    study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conduct_module, "measure", _interrupt)
    assert main(arguments(study_file, tmp_path)) == INTERRUPTED
    output = capsys.readouterr().err
    for number in range(1, 11):
        assert f"network {number} of 10, about 0:00:0" in output
    assert "resume with: python -m training study" in output
    assert output.rstrip().endswith("--resume")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def weight_files(study: Path) -> dict[Path, int]:
    """Return the time of the last change of each file of weights."""
    return {path: path.stat().st_mtime_ns for path in study.rglob(WEIGHTS_FILE)}


def test_a_finished_study_trains_nothing_again_and_ends_with_its_page_in_one_line(
    place: Path, study_file: Path, record: StudyRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weight_files(place / "run")

    assert main(arguments(study_file, place, "--resume")) == 0

    assert weight_files(place / "run") == before
    assert len(before) == len(record.networks)
    out = capsys.readouterr().out
    page = place / "page" / PAGE_FILE
    written = StudyRecord.model_validate_json((place / "page" / RECORD_FILE).read_bytes())
    assert written.model_copy(update={"created": record.created}) == record
    assert out == f"study tiny: {len(record.networks)} networks, page: {page.resolve()}\n"


def test_a_folder_in_use_is_refused_without_resume(
    place: Path, study_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(study_file, place)) == MISTAKE
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "expected an empty one, got 6 entries: add --resume" in output


def test_a_study_in_a_folder_that_another_one_holds_is_refused(
    study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(tmp_path / "run", resume=False):
        assert main(arguments(study_file, tmp_path)) == MISTAKE
    assert "in use by process" in capsys.readouterr().err


def test_a_study_that_was_never_begun_is_not_resumed(
    study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(study_file, tmp_path, "--resume")) == MISTAKE
    assert "expected a run to resume, got an empty folder" in capsys.readouterr().err


def test_an_unknown_study_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "fashion"]) == MISTAKE
    assert capsys.readouterr().err.startswith(
        'offramp: error: study "fashion": expected a built-in name (fashion-mnist)'
    )
