"""The file in the state folder: valid and invalid content, and changes."""

import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.errors import ConfigurationError
from serving.monitor import revocation_file
from serving.monitor.revocation_file import (
    LOCK_FILE,
    REVOCATIONS_FILE,
    Entries,
    RevocationFile,
    RevokedPoint,
)

ENTRY = RevokedPoint(model="digits", version=3, operating_point="fast", revoked="2026-01-01T00:00:00+00:00")


def with_entry(entries: Entries) -> Entries:
    return (*entries, ENTRY)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert RevocationFile(tmp_path).read() == ()

    assert RevocationFile(tmp_path).change(with_entry) == (ENTRY,)

    assert RevocationFile(tmp_path).read() == (ENTRY,)
    assert {path.name for path in tmp_path.iterdir()} == {REVOCATIONS_FILE, LOCK_FILE}


def test_an_entry_of_an_earlier_server_is_read(tmp_path: Path) -> None:
    line = {
        "model": "digits",
        "version": 3,
        "operating_point": "fast",
        "revoked": "2026-01-01T00:00:00+00:00",
        "epsilon": 0.03,
        "delta": 0.05,
        "shadow_rows": 200,
        "disagreements": 19,
    }
    (tmp_path / REVOCATIONS_FILE).write_text(json.dumps({"revocations": [line]}))

    (entry,) = RevocationFile(tmp_path).read()

    assert (entry.by, entry.reinstated, entry.shadow_rows) == ("monitor", None, 200)


@pytest.mark.parametrize("text", ["{", '{"revocations": 3}', '{"revoked": []}', "\x00", "\xff"])
def test_the_error_names_an_invalid_file(tmp_path: Path, text: str) -> None:
    (tmp_path / REVOCATIONS_FILE).write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigurationError, match=REVOCATIONS_FILE):
        RevocationFile(tmp_path).read()


def test_the_error_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"state folder .*/nowhere: expected a folder that can be"):
        RevocationFile(tmp_path / "nowhere")


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def put_link(path: Path) -> None:
    target = path.parent / "precious"
    target.write_text("precious")
    path.symlink_to(target)


def put_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("put", [put_pipe, put_dangling_link, put_link, put_folder])
@pytest.mark.parametrize("name", [REVOCATIONS_FILE, LOCK_FILE])
def test_a_path_that_is_no_regular_file_is_refused_and_unchanged(
    tmp_path: Path, name: str, put: object
) -> None:
    assert callable(put)
    put(tmp_path / name)
    before = os.lstat(tmp_path / name)

    with pytest.raises(ConfigurationError, match=name):
        RevocationFile(tmp_path).change(with_entry)

    assert os.lstat(tmp_path / name) == before
    if (tmp_path / "precious").exists():
        assert (tmp_path / "precious").read_text() == "precious"


def test_a_held_lock_is_awaited_and_then_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_file, "LOCK_SECONDS", 0.05)
    with (tmp_path / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match=f"{LOCK_FILE}: another process has held it for 0.05"):
            RevocationFile(tmp_path).change(with_entry)

    assert RevocationFile(tmp_path).change(with_entry) == (ENTRY,)


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RevocationFile(tmp_path).change(with_entry)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        RevocationFile(tmp_path).change(lambda _: ())

    assert RevocationFile(tmp_path).read() == (ENTRY,)
    assert {path.name for path in tmp_path.iterdir()} == {REVOCATIONS_FILE, LOCK_FILE}


def test_the_draft_of_a_killed_writer_is_overwritten_by_the_next(tmp_path: Path) -> None:
    (tmp_path / f".{REVOCATIONS_FILE}.draft").write_text("half")

    RevocationFile(tmp_path).change(with_entry)

    assert {path.name for path in tmp_path.iterdir()} == {REVOCATIONS_FILE, LOCK_FILE}


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    def add(version: int) -> None:
        RevocationFile(tmp_path).change(
            lambda entries: (*entries, ENTRY.model_copy(update={"version": version}))
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(1, 33)))

    assert {entry.version for entry in RevocationFile(tmp_path).read()} == set(range(1, 33))


@pytest.mark.parametrize(
    ("entry", "covers", "lies_within"),
    [
        (("digits", 3, "fast"), True, True),
        (("digits", 3, None), True, False),
        (("digits", None, None), True, False),
        (("digits", 3, "balanced"), False, False),
        (("digits", 4, "fast"), False, False),
        (("letters", None, None), False, False),
    ],
)
def test_the_scope_of_an_entry(
    entry: tuple[str, int | None, str | None], *, covers: bool, lies_within: bool
) -> None:
    model, version, point = entry
    revoked = RevokedPoint(model=model, version=version, operating_point=point, revoked="now")

    assert revoked.covers("digits", 3, "fast") is covers
    assert revoked.lies_within("digits", 3, "fast") is lies_within
    assert revoked.lies_within("digits", None, None) is (model == "digits")
