import json
from pathlib import Path

import pytest

from serving.engine.monitor import Revocation
from serving.errors import ConfigurationError
from serving.revocations import REVOCATIONS_FILE, Revocations

REVOCATION = Revocation("fast", "balanced", 0.03, 0.05, shadow_rows=200, disagreements=19)


def test_what_was_revoked_is_read_after_a_restart(tmp_path: Path) -> None:
    Revocations(tmp_path).add("digits", 3, REVOCATION)

    again = Revocations(tmp_path)

    assert again.of("digits", 3) == {"fast"}
    assert again.of("digits", 4) == again.of("other", 3) == set()


def test_without_a_folder_revocations_last_as_long_as_the_process() -> None:
    revocations = Revocations(None)
    revocations.add("digits", 3, REVOCATION)
    revocations.refresh()

    assert revocations.of("digits", 3) == {"fast"}
    assert Revocations(None).of("digits", 3) == set()


def test_the_file_says_upon_what_and_when(tmp_path: Path) -> None:
    Revocations(tmp_path).add("digits", 3, REVOCATION)

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
    server, operator = Revocations(tmp_path), Revocations(tmp_path)
    server.add("digits", 3, REVOCATION)

    assert [each.operating_point for each in operator.remove("digits", None, None)] == ["fast"]
    server.add("letters", 1, REVOCATION)

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
        revocations.add(name, number, each)

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


def test_a_file_that_cannot_be_written_leaves_no_debris(tmp_path: Path) -> None:
    revocations = Revocations(tmp_path)
    revocations.add("digits", 3, REVOCATION)
    (tmp_path / REVOCATIONS_FILE).unlink()
    (tmp_path / REVOCATIONS_FILE).mkdir()

    with pytest.raises((OSError, ConfigurationError)):
        revocations.add("digits", 4, REVOCATION)

    assert [path.name for path in tmp_path.iterdir()] == [REVOCATIONS_FILE]


def test_what_could_not_be_written_holds_and_is_written_with_the_next(tmp_path: Path) -> None:
    revocations = Revocations(tmp_path)
    (tmp_path / REVOCATIONS_FILE).mkdir()
    with pytest.raises((OSError, ConfigurationError)):
        revocations.add("digits", 3, REVOCATION)
    assert revocations.of("digits", 3) == {"fast"}

    (tmp_path / REVOCATIONS_FILE).rmdir()
    revocations.add("digits", 4, REVOCATION)

    again = Revocations(tmp_path)
    assert again.of("digits", 3) == again.of("digits", 4) == {"fast"}
