"""The command `rollback`."""

from pathlib import Path

import pytest

from serving.commands.program import main
from serving.repository.repository import find_versions
from serving.repository.rollback import ROLLBACK_FILE, default_version
from tests.serving import scripted_model
from tests.serving.commands.conftest import Run

AT_RESCAN = "a running server applies this at its next rescan: on SIGHUP, or at the next poll\n"


def default_of(root: Path) -> int:
    return default_version(root / "scripted", find_versions(root)["scripted"])


def test_rollback_makes_an_older_version_the_default_until_the_next_publication(root: Path, run: Run) -> None:
    assert run("rollback", "scripted", "1") == (
        0,
        "scripted: version 1 serves until a version above 3 is published\n"
        f"undo it: offramp rollback scripted --undo --model-repository {root}\n{AT_RESCAN}",
        "",
    )
    assert default_of(root) == 1

    scripted_model.publish(root, version=4)

    assert default_of(root) == 4


def test_the_printed_command_names_the_default_repository_by_its_absence(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root.parent)

    assert main(["rollback", "scripted", "1"], prog="offramp") == 0

    assert "\nundo it: offramp rollback scripted --undo\n" in capsys.readouterr().out


def test_a_repeated_rollback_changes_nothing(root: Path, run: Run) -> None:
    run("rollback", "scripted", "1")

    assert run("rollback", "scripted", "1") == (
        0,
        "scripted: version 1 serves already; nothing changed\n",
        "",
    )
    assert default_of(root) == 1


def test_a_rollback_replaces_an_earlier_one(root: Path, run: Run) -> None:
    run("rollback", "scripted", "1")
    run("rollback", "scripted", "2")

    assert default_of(root) == 2


@pytest.mark.parametrize("words", [("--undo",), ("3",)])
def test_undo_and_the_highest_version_end_a_rollback(root: Path, run: Run, words: tuple[str, ...]) -> None:
    run("rollback", "scripted", "1")

    assert run("rollback", "scripted", *words) == (0, f"scripted: version 3 serves again\n{AT_RESCAN}", "")
    assert default_of(root) == 3


@pytest.mark.parametrize("words", [("--undo",), ("3",)])
def test_undo_without_a_rollback_changes_nothing(root: Path, run: Run, words: tuple[str, ...]) -> None:
    assert run("rollback", "scripted", *words) == (
        0,
        "scripted: version 3 serves already; nothing changed\n",
        "",
    )


def test_undo_removes_an_invalid_file(root: Path, run: Run) -> None:
    (root / "scripted" / ROLLBACK_FILE).write_text("{")

    assert run("rollback", "scripted", "--undo") == (0, f"scripted: version 3 serves again\n{AT_RESCAN}", "")
    assert default_of(root) == 3


def test_undo_removes_the_file_of_a_rollback_that_has_ended(root: Path, run: Run) -> None:
    run("rollback", "scripted", "1")
    scripted_model.publish(root, version=4)

    run("rollback", "scripted", "--undo")

    assert not (root / "scripted" / ROLLBACK_FILE).exists()


def test_a_rollback_replaces_an_invalid_file(root: Path, run: Run) -> None:
    (root / "scripted" / ROLLBACK_FILE).write_text("{")

    assert run("rollback", "scripted", "2")[0] == 0
    assert default_of(root) == 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("other", "1"), 'expected one of its models (scripted), got "other"'),
        (("other", "--undo"), 'expected one of its models (scripted), got "other"'),
        (("scripted", "9"), 'model "scripted": expected one of versions 1, 2, 3, got 9'),
    ],
)
def test_an_unknown_model_or_version_is_one_line_and_exit_code_2(
    root: Path, run: Run, words: tuple[str, ...], complaint: str
) -> None:
    code, output, errors = run("rollback", *words)

    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert complaint in errors
    assert not (root / "scripted" / ROLLBACK_FILE).exists()


def test_a_damaged_version_is_refused(root: Path, run: Run) -> None:
    (root / "scripted" / "1" / "stage-1.onnx").write_bytes(b"")

    code, output, errors = run("rollback", "scripted", "1")

    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "stage-1.onnx: sha256: expected" in errors
    assert default_of(root) == 3


@pytest.mark.parametrize("version", ["0", "x", "-1", "1.0"])
def test_a_malformed_version_is_a_usage_error(run: Run, version: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("rollback", "scripted", version)


def test_a_file_that_cannot_be_written_is_one_line_and_exit_code_2(root: Path, run: Run) -> None:
    (root / "scripted" / f".{ROLLBACK_FILE}.draft").mkdir()

    code, output, errors = run("rollback", "scripted", "1")

    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "rollback.json: cannot be written: Is a directory" in errors
