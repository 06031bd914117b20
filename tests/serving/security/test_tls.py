"""The files of the server's certificate: which are refused, and when changed ones are read."""

from pathlib import Path

import pytest

from serving.errors import ConfigurationError
from serving.security.tls import Reloaded, TlsFiles
from tests.serving.security.authority import Authority, make_authority, openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls") / "authority")


def test_matching_files_are_accepted(authority: Authority) -> None:
    server = authority.issue("server")

    TlsFiles(server.certificate, server.key, authority.certificate).check()


def test_a_missing_file_is_named(authority: Authority) -> None:
    server = authority.issue("server")
    missing = authority.folder / "missing.pem"

    with pytest.raises(ConfigurationError, match=rf"security: {missing}: No such file"):
        TlsFiles(missing, server.key).check()
    with pytest.raises(ConfigurationError, match=rf"security: {missing}: No such file"):
        TlsFiles(server.certificate, server.key, missing).check()


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    server, other = authority.issue("server"), authority.issue("other")

    with pytest.raises(ConfigurationError, match="KEY_VALUES_MISMATCH"):
        TlsFiles(server.certificate, other.key).check()


def test_an_encrypted_key_is_refused_without_asking_for_a_password(authority: Authority) -> None:
    server = authority.issue("server")
    encrypted = authority.folder / "encrypted.key"
    openssl("ec", "-in", server.key, "-out", encrypted, "-aes256", "-passout", "pass:secret")

    with pytest.raises(ConfigurationError, match="expected a key without a password"):
        TlsFiles(server.certificate, encrypted).check()


def test_text_that_is_no_certificate_is_refused(authority: Authority, tmp_path: Path) -> None:
    server = authority.issue("server")
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nonsense")

    with pytest.raises(ConfigurationError, match=str(wrong)):
        TlsFiles(wrong, server.key).check()
    with pytest.raises(ConfigurationError, match=str(wrong)):
        TlsFiles(server.certificate, server.key, wrong).check()


def test_files_are_read_again_only_after_a_change(authority: Authority) -> None:
    server = authority.issue("reloaded")
    files = TlsFiles(server.certificate, server.key)
    reloaded = Reloaded(files)
    assert reloaded.refresh(lambda: "read") is None

    authority.issue("reloaded")

    assert reloaded.refresh(lambda: "read") == "read"
    assert reloaded.refresh(lambda: "read") is None


def test_invalid_files_leave_the_old_ones_in_use(authority: Authority) -> None:
    server = authority.issue("invalid")
    files = TlsFiles(server.certificate, server.key)
    reloaded = Reloaded(files)

    server.certificate.write_text("nonsense")

    assert reloaded.refresh(files.grpc_configuration) is None
    authority.issue("invalid")
    assert reloaded.refresh(files.grpc_configuration) is not None
