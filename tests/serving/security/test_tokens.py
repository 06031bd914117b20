"""Token files: what they accept, and what a refresh does."""

from pathlib import Path

import pytest

from serving.errors import ConfigurationError
from serving.security.permissions import Group
from serving.security.tokens import TokenFile, new_token, parse_groups


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_token_is_found_by_its_secret_alone(tmp_path: Path) -> None:
    secret, token = new_token("dashboard", frozenset({Group.INFER, Group.READ}))
    other, _ = new_token("other", frozenset({Group.INFER}))
    tokens = TokenFile(write(tmp_path / "tokens", "# comment", "", token.line()))

    assert tokens.find(secret) == token
    assert tokens.find(other) is None
    assert tokens.find(token.digest) is None
    assert tokens.find("") is None


def test_a_file_holds_no_secret(tmp_path: Path) -> None:
    secret, token = new_token("dashboard", frozenset({Group.READ}))

    assert secret not in token.line()
    assert token.line().startswith("dashboard read ")


def test_every_new_token_differs() -> None:
    assert len({new_token("a", frozenset({Group.READ}))[0] for _ in range(100)}) == 100


DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("dashboard read", "expected NAME GROUPS SHA256, got 2 fields"),
        (f"dash/board read {DIGEST}", 'token name: expected 1 to 64 letters, digits, ".", "_" or "-"'),
        (f"dashboard write {DIGEST}", 'groups: expected some of infer, read, admin, train, got "write"'),
        (f"dashboard read, {DIGEST}", 'got ""'),
        ("dashboard read secret", "expected the SHA-256 of a token, 64 hexadecimal digits"),
        (f"dashboard read {DIGEST.replace('0', 'A')}", "in lower case"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number(tmp_path: Path, line: str, complaint: str) -> None:
    path = write(tmp_path / "tokens", f"good read {DIGEST}", line)

    with pytest.raises(ConfigurationError) as refused:
        TokenFile(path)

    assert f"{path}, line 2: " in str(refused.value)
    assert complaint in str(refused.value)


def test_a_pasted_token_is_not_repeated_in_the_message(tmp_path: Path) -> None:
    secret, _ = new_token("dashboard", frozenset({Group.READ}))

    with pytest.raises(ConfigurationError) as refused:
        TokenFile(write(tmp_path / "tokens", f"dashboard read {secret}"))

    assert secret not in str(refused.value)


def test_a_name_may_occur_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 2: the name a occurs twice"):
        TokenFile(write(tmp_path / "tokens", f"a read {DIGEST}", f"a infer {DIGEST}"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected at least one token, got none"):
        TokenFile(write(tmp_path / "tokens", "# nothing"))


def test_a_refresh_takes_up_added_and_removed_tokens(tmp_path: Path) -> None:
    first_secret, first = new_token("first", frozenset({Group.READ}))
    second_secret, second = new_token("second", frozenset({Group.READ}))
    tokens = TokenFile(write(tmp_path / "tokens", first.line()))

    write(tmp_path / "tokens", second.line())
    tokens.refresh()

    assert tokens.find(first_secret) is None
    assert tokens.find(second_secret) == second


@pytest.mark.parametrize("content", [None, "nonsense\n", "\xff"])
def test_an_unreadable_file_keeps_the_old_tokens(tmp_path: Path, content: str | None) -> None:
    secret, token = new_token("first", frozenset({Group.READ}))
    path = write(tmp_path / "tokens", token.line())
    tokens = TokenFile(path)

    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode("latin-1"))
    tokens.refresh()

    assert tokens.find(secret) == token


def test_groups_are_parsed() -> None:
    assert parse_groups("infer,train") == {Group.INFER, Group.TRAIN}
