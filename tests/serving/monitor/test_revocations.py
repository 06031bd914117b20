import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.errors import ConfigurationError
from serving.monitor.monitor import Revocation
from serving.monitor.revocations import REVOCATIONS_FILE, Revocations

REVOCATION = Revocation("fast", "balanced", 0.03, 0.05, shadow_rows=200, disagreements=19)


def revoke(folder: Path, model: str = "digits", version: int = 3) -> Revocations:
    """Revoke a point as a server does, and write it down."""
    revocations = Revocations(folder)
    revocations.note(model, version, REVOCATION)
    revocations.write()
    return revocations


def test_what_was_revoked_is_read_after_a_restart(tmp_path: Path) -> None:
    revoke(tmp_path)

    again = Revocations(tmp_path)

    assert again.of("digits", 3) == {"fast"}
    assert again.of("digits", 4) == again.of("other", 3) == set()


def test_without_a_folder_revocations_last_as_long_as_the_process() -> None:
    revocations = Revocations(None)
    revocations.note("digits", 3, REVOCATION)
    revocations.write()
    revocations.refresh()

    assert revocations.of("digits", 3) == {"fast"}
    assert Revocations(None).of("digits", 3) == set()


def test_the_file_says_upon_what_and_when(tmp_path: Path) -> None:
    revoke(tmp_path)

    (line,) = json.loads((tmp_path / REVOCATIONS_FILE).read_text())["revocations"]
    assert line.pop("revoked").endswith("+00:00")
    assert line == {
        "model": "digits",
        "version": 3,
        "operating_point": "fast",
        "epsilon": 0.03,
        "delta": 0.05,
        "shadow_rows": 200,
        "disagreements": 19,
    }


def test_a_line_that_the_operator_took_out_stays_out(tmp_path: Path) -> None:
    server, operator = revoke(tmp_path), Revocations(tmp_path)

    assert [each.operating_point for each in operator.remove("digits", None, None)] == ["fast"]
    server.note("letters", 1, REVOCATION)
    server.write()

    assert (server.of("digits", 3), server.of("letters", 1)) == (set(), {"fast"})


@pytest.mark.parametrize(
    ("model", "version", "point", "left"),
    [
        ("digits", 3, "fast", 3),
        ("digits", 3, None, 2),
        ("digits", None, None, 1),
        ("digits", None, "fast", 2),
        ("digits", 9, None, 4),
        ("letters", None, None, 3),
    ],
)
def test_what_is_taken_out_is_what_matches(
    tmp_path: Path, model: str, version: int | None, point: str | None, left: int
) -> None:
    revocations = Revocations(tmp_path)
    slow = Revocation("balanced", "exact", 0.01, 0.05, shadow_rows=100, disagreements=9)
    for name, number, each in (
        ("digits", 3, REVOCATION),
        ("digits", 3, slow),
        ("digits", 4, REVOCATION),
        ("letters", 3, REVOCATION),
    ):
        revocations.note(name, number, each)
    revocations.write()

    removed = revocations.remove(model, version, point)

    assert len(removed) == 4 - left
    assert len(json.loads((tmp_path / REVOCATIONS_FILE).read_text())["revocations"]) == left


@pytest.mark.parametrize("text", ["{", '{"revocations": 3}', '{"revoked": []}', "\x00"])
def test_a_file_that_is_something_else_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / REVOCATIONS_FILE).write_text(text)

    with pytest.raises(ConfigurationError, match=REVOCATIONS_FILE):
        Revocations(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"state folder .*/nowhere: expected a folder that can be"):
        Revocations(tmp_path / "nowhere")


def test_what_could_not_be_written_holds_and_is_written_with_the_next(tmp_path: Path) -> None:
    revocations = Revocations(tmp_path)
    (tmp_path / REVOCATIONS_FILE).mkdir()
    revocations.note("digits", 3, REVOCATION)
    with pytest.raises((OSError, ConfigurationError)):
        revocations.write()
    assert revocations.of("digits", 3) == {"fast"}
    assert {path.name for path in tmp_path.iterdir()} == {REVOCATIONS_FILE, "revocations.lock"}

    (tmp_path / REVOCATIONS_FILE).rmdir()
    revocations.note("digits", 4, REVOCATION)
    revocations.write()

    again = Revocations(tmp_path)
    assert again.of("digits", 3) == again.of("digits", 4) == {"fast"}


def test_a_file_that_went_away_is_no_operators_word(tmp_path: Path) -> None:
    revocations = revoke(tmp_path)
    (tmp_path / REVOCATIONS_FILE).unlink()

    with pytest.raises(ConfigurationError, match="expected the file that was there, got none"):
        revocations.refresh()

    assert revocations.of("digits", 3) == {"fast"}


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda version: revoke(tmp_path, version=version), range(1, 17)))

    kept = Revocations(tmp_path)
    assert all(kept.of("digits", version) == {"fast"} for version in range(1, 17))
