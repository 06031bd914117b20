"""Revocations in one process and across restarts. Only an operator's command reinstates a point."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from serving.errors import ConfigurationError
from serving.monitor import revocations as module
from serving.monitor.monitor import Revocation
from serving.monitor.revocation_file import REVOCATIONS_FILE, RevocationFile
from serving.monitor.revocations import Revocations, reinstate, revoke
from tests.serving.live_server import PATIENCE_SECONDS, eventually

REVOCATION = Revocation("fast", 0.03, 0.05, shadow_rows=200, disagreements=19)


@contextmanager
def kept(folder: Path, on_change: Callable[[], None] = lambda: None) -> Iterator[Revocations]:
    """Keep revocations as a server does."""
    revocations = Revocations(folder)
    revocations.start(on_change)
    yield revocations
    revocations.close(PATIENCE_SECONDS)


def written(revocations: Revocations) -> bool:
    return eventually(lambda: not revocations.unwritten())


def look(revocations: Revocations, until: Callable[[], bool]) -> bool:
    revocations.refresh()
    return eventually(until)


def test_a_revocation_is_in_force_after_a_restart(tmp_path: Path) -> None:
    with kept(tmp_path) as revocations:
        revocations.add("digits", 3, REVOCATION)

    again = Revocations(tmp_path)

    assert again.revoked_by("digits", 3, "fast") == "monitor"
    assert again.revoked_by("digits", 4, "fast") is again.revoked_by("other", 3, "fast") is None


def test_without_a_folder_revocations_last_as_long_as_the_process() -> None:
    revocations = Revocations(None)
    revocations.start(lambda: None)
    revocations.add("digits", 3, REVOCATION)
    revocations.refresh()

    assert revocations.revoked_by("digits", 3, "fast") == "monitor"
    assert revocations.unwritten() == []
    revocations.close(0)
    assert Revocations(None).revoked_by("digits", 3, "fast") is None


def test_the_file_states_the_evidence_and_the_time(tmp_path: Path) -> None:
    with kept(tmp_path) as revocations:
        revocations.add("digits", 3, REVOCATION)

    (line,) = json.loads((tmp_path / REVOCATIONS_FILE).read_text())["revocations"]
    assert line.pop("revoked").endswith("+00:00")
    assert line == {
        "model": "digits",
        "version": 3,
        "operating_point": "fast",
        "by": "monitor",
        "epsilon": 0.03,
        "delta": 0.05,
        "shadow_rows": 200,
        "disagreements": 19,
        "reinstated": None,
    }


def test_revocations_while_an_earlier_one_is_written_slowly_are_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    original = RevocationFile.change

    def slow(file: RevocationFile, change: Callable[..., object]) -> object:
        begun.set()
        assert go_on.wait(PATIENCE_SECONDS)
        return original(file, change)  # type: ignore[arg-type]

    monkeypatch.setattr(RevocationFile, "change", slow)
    with kept(tmp_path) as revocations:
        revocations.add("digits", 1, REVOCATION)
        assert begun.wait(PATIENCE_SECONDS)
        for version in (2, 3, 4):
            revocations.add("digits", version, REVOCATION)
            revocations.refresh()
        go_on.set()
        assert written(revocations)

        assert all(revocations.revoked_by("digits", version, "fast") for version in (1, 2, 3, 4))
    assert {entry.version for entry in RevocationFile(tmp_path).read()} == {1, 2, 3, 4}


def remove(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_text('{"revocations": []}')


@pytest.mark.parametrize("lose", [remove, empty])
def test_an_entry_that_is_lost_from_the_file_is_written_again(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    with kept(tmp_path) as revocations:
        revocations.add("digits", 3, REVOCATION)
        assert written(revocations)
        entries = RevocationFile(tmp_path).read()

        lose(tmp_path / REVOCATIONS_FILE)

        assert look(revocations, lambda: RevocationFile(tmp_path).read() == entries)
        assert revocations.revoked_by("digits", 3, "fast") == "monitor"


def test_a_damaged_file_changes_nothing_and_is_logged_once(tmp_path: Path) -> None:
    with kept(tmp_path) as revocations, capture_logs() as logs:
        revocations.add("digits", 3, REVOCATION)
        assert written(revocations)
        (tmp_path / REVOCATIONS_FILE).write_text("{")

        assert look(revocations, lambda: bool(logs))
        revocations.add("digits", 4, REVOCATION)
        revocations.refresh()

        assert revocations.revoked_by("digits", 3, "fast") == "monitor"
        assert revocations.unwritten() == ["digits/4/fast"]
        (tmp_path / REVOCATIONS_FILE).unlink()
        revocations.refresh()
        assert written(revocations)
    assert [entry["event"] for entry in logs] == ["state folder unusable"]


def test_a_revocation_that_cannot_be_written_is_in_force_and_written_later(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with kept(tmp_path / "state") as revocations, capture_logs() as logs:
        (tmp_path / "state").rename(tmp_path / "elsewhere")
        revocations.add("digits", 3, REVOCATION)
        assert eventually(lambda: bool(logs))
        assert revocations.revoked_by("digits", 3, "fast") == "monitor"
        assert revocations.unwritten() == ["digits/3/fast"]

        (tmp_path / "elsewhere").rename(tmp_path / "state")
        revocations.refresh()
        assert written(revocations)


def test_a_failed_write_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "REFRESH_SECONDS", 3600)
    file = tmp_path / REVOCATIONS_FILE
    with kept(tmp_path) as revocations, capture_logs() as logs:
        for failures in (1, 2):
            file.write_text("spoilt")
            revocations.add("digits", failures, REVOCATION)
            assert eventually(lambda failures=failures: len(logs) == failures)  # type: ignore[misc]
            file.unlink()
            assert written(revocations)

    assert {each["event"] for each in logs} == {"state folder unusable"}


def test_revocations_by_other_servers_and_operators_are_applied(tmp_path: Path) -> None:
    changes: list[str | None] = []
    with kept(tmp_path, lambda: changes.append(one.revoked_by("digits", 3, "fast"))) as one:
        with kept(tmp_path) as other:
            other.add("digits", 3, REVOCATION)
        assert look(one, lambda: changes[-1:] == ["monitor"])

        revoke(tmp_path, "letters", None, None)
        assert look(one, lambda: one.revoked_by("letters", 17, "any") == "operator")


def test_a_reinstated_point_is_in_force_for_all_servers_and_revoked_again_by_new_evidence(
    tmp_path: Path,
) -> None:
    with kept(tmp_path) as one, kept(tmp_path) as other:
        one.add("digits", 3, REVOCATION)
        assert written(one)
        assert look(other, lambda: other.revoked_by("digits", 3, "fast") is not None)

        assert [entry.scope for entry in reinstate(tmp_path, "digits", None, None)] == ["digits/3/fast"]

        for each in (one, other):
            assert look(each, lambda each=each: each.revoked_by("digits", 3, "fast") is None)  # type: ignore[misc]
        one.add("digits", 3, REVOCATION)
        assert written(one)
        assert look(other, lambda: other.revoked_by("digits", 3, "fast") is not None)


def test_a_reinstatement_does_not_touch_a_revocation_that_is_not_written_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 3600)
    with kept(tmp_path) as revocations:
        revocations.add("digits", 3, REVOCATION)
        assert written(revocations)
        reinstate(tmp_path, "digits", 3, "fast")
        revocations.add("digits", 3, REVOCATION)
        assert written(revocations)

        assert revocations.revoked_by("digits", 3, "fast") == "monitor"
    entries = RevocationFile(tmp_path).read()
    assert [entry.reinstated is None for entry in entries] == [False, True]


def test_nothing_to_reinstate_is_an_error(tmp_path: Path) -> None:
    revoke(tmp_path, "digits", 3, "fast")

    with pytest.raises(ConfigurationError, match="nothing revoked matches digits/3/balanced"):
        reinstate(tmp_path, "digits", 3, "balanced")


def test_a_point_under_a_wider_revocation_cannot_be_reinstated_separately(tmp_path: Path) -> None:
    revoke(tmp_path, "digits", 3, "fast")
    revoke(tmp_path, "digits", None, None)

    with pytest.raises(
        ConfigurationError, match="digits/3/fast is revoked as part of digits: reinstate digits"
    ):
        reinstate(tmp_path, "digits", 3, "fast")

    assert {entry.scope for entry in reinstate(tmp_path, "digits", None, None)} == {"digits", "digits/3/fast"}


def test_revoking_twice_is_revoking_once(tmp_path: Path) -> None:
    first, second = (revoke(tmp_path, "digits", 3, "fast") for _ in range(2))

    assert first == second
    assert RevocationFile(tmp_path).read() == (first,)


def test_closing_writes_pending_revocations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 3600)
    (tmp_path / "state").mkdir()
    revocations = Revocations(tmp_path / "state")
    revocations.start(lambda: None)
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    with capture_logs() as logs:
        revocations.add("digits", 3, REVOCATION)
        assert eventually(lambda: bool(logs))
    (tmp_path / "elsewhere").rename(tmp_path / "state")

    revocations.close(PATIENCE_SECONDS)

    assert revocations.unwritten() == []
    assert [entry.scope for entry in RevocationFile(tmp_path / "state").read()] == ["digits/3/fast"]


def test_a_revocation_during_the_last_synchronisation_is_written(tmp_path: Path) -> None:
    closing: list[threading.Thread] = []

    def note_while_closing() -> None:
        if closing:
            return
        revocations.add("digits", 3, REVOCATION)
        closer = threading.Thread(target=revocations.close, args=(PATIENCE_SECONDS,))
        closer.start()
        closing.append(closer)
        assert eventually(lambda: revocations._closing)

    revocations = Revocations(tmp_path)
    revocations.start(note_while_closing)
    assert eventually(lambda: bool(closing))
    closing[0].join(PATIENCE_SECONDS)

    assert [entry.scope for entry in RevocationFile(tmp_path).read()] == ["digits/3/fast"]
