"""The command `remove`."""

import shlex
import shutil
from pathlib import Path

import pytest

from serving.repository.repository import find_versions, read_version
from serving.repository.rollback import ROLLBACK_FILE, default_version
from tests.serving.commands.conftest import Run
from tests.serving.commands.test_rollback import AT_RESCAN


def test_remove_moves_a_version_and_prints_the_command_that_takes_it_back(root: Path, run: Run) -> None:
    code, output, errors = run("remove", "scripted", "1")

    assert (code, errors) == (0, "")
    assert output == (
        f"removed scripted/1\ntake it back: mv {root}/.removed/scripted/1 {root}/scripted/1\n{AT_RESCAN}"
    )
    assert find_versions(root) == {"scripted": [2, 3]}


def test_the_printed_command_takes_the_version_back(root: Path, run: Run) -> None:
    _, output, _ = run("remove", "scripted", "1")
    _, source, target = shlex.split(output.splitlines()[1].partition(": ")[2])

    Path(source).rename(target)

    assert find_versions(root) == {"scripted": [1, 2, 3]}
    assert read_version(root / "scripted" / "1").manifest.version == 1


def test_the_version_that_serves_is_removed_only_with_force(root: Path, run: Run) -> None:
    code, output, errors = run("remove", "scripted", "3")

    assert (code, output) == (2, "")
    assert errors == (
        "offramp: error: scripted/3 serves; use --force to remove it (scripted/2 serves instead)\n"
    )

    code, output, _ = run("remove", "scripted", "3", "--force")

    assert (code, "\nscripted/2 serves instead\n" in output) == (0, True)
    assert find_versions(root) == {"scripted": [1, 2]}


def test_the_only_version_is_removed_only_with_force(root: Path, run: Run) -> None:
    for version in ("1", "2"):
        run("remove", "scripted", version)

    assert "(scripted is not served any more)" in run("remove", "scripted", "3")[2]
    assert run("remove", "scripted", "3", "--force")[0] == 0
    assert find_versions(root) == {}


def test_the_version_of_a_rollback_is_not_removed_even_with_force(root: Path, run: Run) -> None:
    run("rollback", "scripted", "1")

    assert run("remove", "scripted", "1", "--force") == (
        2,
        "",
        "offramp: error: scripted is rolled back to version 1; undo that: "
        f"offramp rollback scripted --undo --model-repository {root}\n",
    )
    assert find_versions(root) == {"scripted": [1, 2, 3]}


def test_the_version_that_was_rolled_back_is_removed_without_force(root: Path, run: Run) -> None:
    run("rollback", "scripted", "1")

    code, output, _ = run("remove", "scripted", "3")

    assert (code, "instead" in output) == (0, False)
    assert find_versions(root) == {"scripted": [1, 2]}


def test_removing_the_version_that_ended_a_rollback_does_not_revive_it(root: Path, run: Run) -> None:
    (root / "scripted" / ROLLBACK_FILE).write_text('{"version": 1, "from": 2}')

    code, output, _ = run("remove", "scripted", "3", "--force")

    assert (code, "scripted/2 serves instead" in output) == (0, True)
    assert default_version(root / "scripted", [1, 2]) == 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("other", "1"), 'expected one of its models (scripted), got "other"'),
        (("../models/scripted", "1"), "expected one of its models (scripted), got"),
        (("scripted", "9"), 'model "scripted": expected one of versions 1, 2, 3, got 9'),
    ],
)
def test_an_unknown_version_is_one_line_and_exit_code_2(
    run: Run, words: tuple[str, ...], complaint: str
) -> None:
    code, output, errors = run("remove", *words)

    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert complaint in errors


def test_an_invalid_rollback_file_stops_a_removal(root: Path, run: Run) -> None:
    (root / "scripted" / ROLLBACK_FILE).write_text("{")

    code, _, errors = run("remove", "scripted", "1")

    assert (code, errors.count("\n")) == (2, 1)
    assert "rollback.json: Invalid JSON" in errors
    assert find_versions(root) == {"scripted": [1, 2, 3]}


def test_a_damaged_version_can_be_removed(root: Path, run: Run) -> None:
    shutil.rmtree(root / "scripted" / "1")
    (root / "scripted" / "1").mkdir()

    assert run("remove", "scripted", "1")[0] == 0
