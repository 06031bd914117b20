"""A server that other machines can reach: its warnings, and training that needs tokens."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from serving.config import SecuritySettings, ServerSettings
from serving.errors import ConfigurationError
from serving.lifecycle.grpc_port import GrpcPort
from serving.security.permissions import Group
from serving.security.security import Security
from serving.security.tokens import new_token
from tests.serving.security.authority import make_authority

EXPOSED = ["0.0.0.0", "::", "192.0.2.1", ""]  # noqa: S104 - nothing listens
LOOPBACK = ["127.0.0.1", "::1", "localhost"]


def warnings(host: str, settings: SecuritySettings | None = None, front_end: str = "auto") -> list[str]:
    """Return the warnings of a server at a host."""
    server = ServerSettings.model_validate({"front_end": front_end})
    with capture_logs() as logs:
        GrpcPort(host, 0, server, Security(settings or SecuritySettings()))
    return [entry["event"] for entry in logs if entry["log_level"] == "warning"]


@pytest.mark.parametrize("host", EXPOSED)
def test_a_server_without_tls_beyond_loopback_is_one_warning(host: str) -> None:
    (warning,) = warnings(host)

    assert warning.startswith("exposed without TLS")


@pytest.mark.parametrize("host", EXPOSED)
def test_an_exposed_native_front_end_is_one_warning(host: str) -> None:
    (warning,) = warnings(host, front_end="native")

    assert warning.startswith("the native front end is exposed")


@pytest.mark.parametrize("host", LOOPBACK)
@pytest.mark.parametrize("front_end", ["native", "grpcio"])
def test_a_server_on_loopback_is_no_warning(host: str, front_end: str) -> None:
    assert warnings(host, front_end=front_end) == []


def test_a_server_with_tls_is_no_warning(tmp_path: Path) -> None:
    pair = make_authority(tmp_path / "authority").issue("server")

    assert warnings(EXPOSED[0], SecuritySettings(certificate=pair.certificate, key=pair.key)) == []


def test_native_is_refused_with_tls(tmp_path: Path) -> None:
    pair = make_authority(tmp_path / "authority").issue("server")
    settings = SecuritySettings(certificate=pair.certificate, key=pair.key)

    with pytest.raises(ConfigurationError, match='expected "grpcio" or "auto"'):
        warnings(LOOPBACK[0], settings, "native")


@pytest.mark.parametrize("host", EXPOSED)
def test_training_beyond_loopback_needs_tokens(host: str, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(new_token("a", frozenset({Group.TRAIN}))[1].line())

    with pytest.raises(ConfigurationError, match=r"expected tokens .* --insecure allows it"):
        Security(SecuritySettings()).check_training(host)
    Security(SecuritySettings(token_file=tokens)).check_training(host)


@pytest.mark.parametrize("host", LOOPBACK)
def test_training_on_loopback_needs_no_tokens(host: str) -> None:
    Security(SecuritySettings()).check_training(host)
