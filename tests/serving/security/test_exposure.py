"""A server that other machines can reach: warnings, and training that needs tokens."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from serving.config import SecuritySettings
from serving.errors import ConfigurationError
from serving.security.permissions import Group
from serving.security.security import Security
from serving.security.tokens import new_token
from tests.serving.security.authority import make_authority

EXPOSED = ["0.0.0.0", "::", "192.0.2.1", ""]  # noqa: S104 - nothing listens


def check(
    settings: SecuritySettings, host: str, *, trains: bool = False, insecure: bool = False
) -> list[str]:
    """Return the warnings of a server at a host."""
    with capture_logs() as logs:
        Security(settings).check_exposure(host, trains=trains, insecure=insecure)
    return [entry["event"] for entry in logs if entry["log_level"] == "warning"]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(new_token("a", frozenset({Group.TRAIN}))[1].line())
    return path


@pytest.mark.parametrize("host", EXPOSED)
def test_a_server_without_tls_beyond_loopback_is_one_warning(host: str) -> None:
    (warning,) = check(SecuritySettings(), host)

    assert warning.startswith("exposed without TLS")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_server_on_loopback_is_no_warning(host: str) -> None:
    assert check(SecuritySettings(), host, trains=True) == []


def test_a_server_with_tls_is_no_warning(tmp_path: Path) -> None:
    pair = make_authority(tmp_path / "authority").issue("server")

    assert check(SecuritySettings(certificate=pair.certificate, key=pair.key), EXPOSED[0]) == []


@pytest.mark.parametrize("host", EXPOSED)
def test_training_beyond_loopback_needs_tokens(host: str, token_file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"expected tokens .* --insecure allows it"):
        check(SecuritySettings(), host, trains=True)

    assert len(check(SecuritySettings(), host, trains=True, insecure=True)) == 1
    assert len(check(SecuritySettings(token_file=token_file), host, trains=True)) == 1
