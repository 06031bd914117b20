"""A server with TLS and tokens: accepted and refused calls of real clients, and their counts."""

import ssl
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from serving.api.wire import INFERENCE_SERVICE, inference
from serving.client import Client, Tls
from serving.client.training import TrainingClient
from serving.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    OfframpError,
    PermissionDenied,
    Unauthenticated,
    Unsupported,
)
from serving.security.permissions import Group
from serving.security.tokens import new_token
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY
from tests.serving.security.authority import Authority, make_authority

IMAGES = np.stack([EASY])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls") / "authority")


def make_tokens(path: Path, **groups: Group) -> dict[str, str]:
    """Write a token file; return the secret of each name."""
    made = {name: new_token(name, frozenset({group})) for name, group in groups.items()}
    path.write_text("".join(token.line() + "\n" for _, token in made.values()))
    return {name: secret for name, (secret, _) in made.items()}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    return path, make_tokens(path, infer=Group.INFER, read=Group.READ, train=Group.TRAIN, admin=Group.ADMIN)


@pytest.fixture(scope="module")
def token_server(models: Path, secrets: tuple[Path, dict[str, str]]) -> Iterator[LiveServer]:
    with LiveServer(models, {"security": {"token_file": secrets[0]}}) as server:
        yield server


def client(server: LiveServer, token: str | None = None, tls: Tls | None = None) -> Client:
    return Client(server.address, token=token, tls=tls)


def failures(server: LiveServer, reason: str) -> float:
    return server.metric("offramp_authentication_failures_total", reason=reason)


def test_a_token_allows_its_group(token_server: LiveServer, secrets: tuple[Path, dict[str, str]]) -> None:
    with client(token_server, secrets[1]["infer"]) as caller:
        assert len(caller.predict("scripted", IMAGES).label_N) == 1
    with client(token_server, secrets[1]["read"]) as caller:
        assert caller.model("scripted").name == "scripted"


def test_a_token_allows_no_other_group(
    token_server: LiveServer, secrets: tuple[Path, dict[str, str]]
) -> None:
    before = failures(token_server, "not_allowed")
    with (
        client(token_server, secrets[1]["read"]) as caller,
        pytest.raises(PermissionDenied, match='token "read": expected the group infer, got read'),
    ):
        caller.predict("scripted", IMAGES)
    with client(token_server, secrets[1]["infer"]) as caller, pytest.raises(PermissionDenied):
        caller.model("scripted")
    assert failures(token_server, "not_allowed") == before + 2


@pytest.mark.parametrize("token", [None, "wrong", "x" * 5000])
def test_a_call_without_a_known_token_is_refused_and_counted(
    token_server: LiveServer, token: str | None
) -> None:
    reason = "missing" if token is None else "unknown"
    before = failures(token_server, reason)
    with capture_logs() as lines, client(token_server, token) as caller, pytest.raises(Unauthenticated):
        caller.predict("scripted", IMAGES)

    assert failures(token_server, reason) == before + 1
    assert [line["status"] for line in lines if line["event"] == "call refused"] == ["UNAUTHENTICATED"]
    assert not any(token in str(line) for line in lines if token is not None)


@pytest.mark.parametrize("value", ["Basic dXNlcjpwYXNz", "Bearer", ""])
def test_another_scheme_is_refused(token_server: LiveServer, value: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        token_server.method("ServerLive")(
            inference.ServerLiveRequest(), metadata=(("authorization", value),), timeout=20
        )

    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_two_tokens_in_one_call_are_refused(
    token_server: LiveServer, secrets: tuple[Path, dict[str, str]]
) -> None:
    header = ("authorization", f"Bearer {secrets[1]['read']}")
    with pytest.raises(grpc.RpcError) as error:
        token_server.method("ServerLive")(
            inference.ServerLiveRequest(), metadata=(header, header), timeout=20
        )

    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_health_needs_no_token(token_server: LiveServer) -> None:
    with client(token_server) as caller:
        assert caller.healthy()


def test_health_needs_a_token_where_it_is_not_open(
    models: Path, secrets: tuple[Path, dict[str, str]]
) -> None:
    settings = {"security": {"token_file": secrets[0], "open_health": False}}
    with LiveServer(models, settings) as server:
        with client(server) as caller, pytest.raises(Unauthenticated):
            caller.healthy()
        with client(server, secrets[1]["read"]) as caller:
            assert caller.healthy()


def test_a_stream_is_refused_before_its_first_message(token_server: LiveServer) -> None:
    stream = token_server.channel.stream_stream(f"/{INFERENCE_SERVICE}/ModelStreamInfer")

    with pytest.raises(grpc.RpcError) as error:
        next(stream(iter(()), timeout=20))

    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_error_for_an_unknown_model_lists_models_only_to_callers_that_may_list_them(
    token_server: LiveServer, secrets: tuple[Path, dict[str, str]]
) -> None:
    with client(token_server, secrets[1]["infer"]) as caller, pytest.raises(ModelNotFound) as inferring:
        caller.predict("other", IMAGES)
    with client(token_server, secrets[1]["read"]) as caller, pytest.raises(ModelNotFound) as reading:
        caller.model("other")

    assert str(inferring.value).endswith(": Request for unknown model: 'other' is not found")
    assert str(reading.value).endswith("'other' is not found; served: scripted")


def test_a_client_that_may_not_read_the_batch_limit_sends_all_rows_at_once(
    token_server: LiveServer, secrets: tuple[Path, dict[str, str]]
) -> None:
    with client(token_server, secrets[1]["infer"]) as caller:
        assert len(caller.predict("scripted", np.stack([EASY] * 64)).label_N) == 64
        with pytest.raises(InvalidRequest, match="expected 1 to 64 rows, got 65"):
            caller.predict("scripted", np.stack([EASY] * 65))


def test_loading_is_for_administrators(
    token_server: LiveServer, secrets: tuple[Path, dict[str, str]]
) -> None:
    codes = []
    for name in ("read", "admin"):
        load = token_server.channel.unary_unary(f"/{INFERENCE_SERVICE}/RepositoryModelLoad")
        with pytest.raises(grpc.RpcError) as error:
            load(b"", metadata=(("authorization", f"Bearer {secrets[1][name]}"),), timeout=20)
        codes.append(error.value.code().name)

    assert codes == ["PERMISSION_DENIED", "UNIMPLEMENTED"]


def test_training_is_for_its_group(token_server: LiveServer, secrets: tuple[Path, dict[str, str]]) -> None:
    with (
        TrainingClient(token_server.address, token=secrets[1]["infer"]) as caller,
        pytest.raises(PermissionDenied),
    ):
        caller.jobs()
    with (
        TrainingClient(token_server.address, token=secrets[1]["train"]) as caller,
        pytest.raises(Unsupported),
    ):
        caller.jobs()  # this server offers no training


def test_a_new_token_is_taken_up_at_a_refresh(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    old = make_tokens(path, old=Group.INFER)["old"]
    settings = {"security": {"token_file": path, "refresh_seconds": 0.05}}
    with LiveServer(models, settings) as server, client(server, old) as caller:
        caller.predict("scripted", IMAGES)
        new = make_tokens(path, new=Group.INFER)["new"]

        with client(server, new) as fresh:
            assert eventually(lambda: is_answered(fresh))
        assert not is_answered(caller)


def is_answered(caller: Client) -> bool:
    try:
        caller.predict("scripted", IMAGES)
    except OfframpError:
        return False
    return True


def test_an_unreadable_token_file_keeps_the_old_tokens(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    secret = make_tokens(path, old=Group.INFER)["old"]
    settings = {"security": {"token_file": path, "refresh_seconds": 0.05}}
    with capture_logs() as lines, LiveServer(models, settings) as server, client(server, secret) as caller:
        path.unlink()
        assert eventually(lambda: complaints(lines) == 1)

        assert is_answered(caller)
    assert complaints(lines) == 1  # once, not at each refresh


def complaints(lines: Sequence[Mapping[str, object]]) -> int:
    return sum(line["event"] == "token file not read; the old tokens stay valid" for line in lines)


def test_the_token_names_the_caller(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    secret = make_tokens(path, dashboard=Group.INFER)["dashboard"]
    settings = {"security": {"token_file": path}, "monitor": {"shadow_share": 1.0}}
    with LiveServer(models, settings) as server, client(server, secret) as caller:
        assert seen_callers(server, caller) == {"token=dashboard"}


def seen_callers(server: LiveServer, caller: Client) -> set[str]:
    """Send a request, and return the callers of the rows that the monitor sampled."""
    version = server.version()
    seen: set[str] = set()
    admitted = version.monitor.admitted

    def note(request: object) -> None:
        seen.add(request.caller)  # type: ignore[attr-defined]
        admitted(request)  # type: ignore[arg-type]

    version.monitor.admitted = note  # type: ignore[method-assign]
    caller.predict("scripted", IMAGES)
    return seen


def tls_settings(authority: Authority, *, mutual: bool = False) -> dict[str, dict[str, Path]]:
    server = authority.issue("server")
    files = {"certificate": server.certificate, "key": server.key}
    return {"security": {**files, "client_ca": authority.certificate} if mutual else files}


@pytest.fixture
def tls_server(models: Path, authority: Authority) -> Iterator[LiveServer]:
    with LiveServer(models, tls_settings(authority)) as server:
        yield server


def test_a_client_that_trusts_the_authority_is_answered(tls_server: LiveServer, authority: Authority) -> None:
    with client(tls_server, tls=Tls(authority.certificate)) as caller:
        assert is_answered(caller)


def test_a_client_without_tls_is_refused(tls_server: LiveServer) -> None:
    with client(tls_server) as caller, pytest.raises(ModelNotReady):
        caller.predict("scripted", IMAGES)


def test_a_client_that_trusts_another_authority_refuses(tls_server: LiveServer, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other")

    with client(tls_server, tls=Tls(other.certificate)) as caller, pytest.raises(ModelNotReady):
        caller.predict("scripted", IMAGES)


def test_a_certificate_of_another_host_is_refused_by_the_client(models: Path, authority: Authority) -> None:
    wrong = authority.issue("wrong", hosts="DNS:elsewhere.example")
    settings = {"security": {"certificate": wrong.certificate, "key": wrong.key}}
    with LiveServer(models, settings) as server, client(server, tls=Tls(authority.certificate)) as caller:
        assert not is_answered(caller)


def test_an_expired_certificate_is_refused_by_the_client(models: Path, authority: Authority) -> None:
    expired = authority.issue("expired", days=-1)
    settings = {"security": {"certificate": expired.certificate, "key": expired.key}}
    with LiveServer(models, settings) as server, client(server, tls=Tls(authority.certificate)) as caller:
        assert not is_answered(caller)


def test_mutual_tls_needs_a_certificate_of_the_authority(
    models: Path, authority: Authority, tmp_path: Path
) -> None:
    mine = authority.issue("dashboard")
    expired = authority.issue("expired", days=-1)
    foreign = make_authority(tmp_path / "other").issue("dashboard")
    settings = tls_settings(authority, mutual=True) | {"monitor": {"shadow_share": 1.0}}
    with LiveServer(models, settings) as server:
        for pair in (foreign, expired):
            with client(server, tls=Tls(authority.certificate, pair.certificate, pair.key)) as caller:
                assert not is_answered(caller)
        with client(server, tls=Tls(authority.certificate)) as caller:
            assert not is_answered(caller)
        with client(server, tls=Tls(authority.certificate, mine.certificate, mine.key)) as caller:
            assert seen_callers(server, caller) == {"certificate=dashboard"}


def test_a_changed_certificate_is_used_for_new_connections_and_old_ones_go_on(
    models: Path, authority: Authority, tmp_path: Path
) -> None:
    settings = tls_settings(authority)
    files = settings["security"]
    with LiveServer(models, settings) as server, client(server, tls=Tls(authority.certificate)) as old:
        assert is_answered(old)
        other = make_authority(tmp_path / "other")
        pair = other.issue("server")
        files["certificate"].write_bytes(pair.certificate.read_bytes())
        files["key"].write_bytes(pair.key.read_bytes())

        with client(server, tls=Tls(other.certificate)) as new:
            assert is_answered(new)
        assert is_answered(old)


def https(server: LiveServer, authority: Authority) -> str:
    """Return the answer of `/readyz` over HTTPS to a client that trusts an authority."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    url = f"https://localhost:{server.server.metrics_port}/readyz"
    with urllib.request.urlopen(url, timeout=20, context=context) as answer:
        return str(answer.read().decode())


def test_the_http_port_uses_the_certificate_too(tls_server: LiveServer, authority: Authority) -> None:
    assert https(tls_server, authority) == "ready\n"
    with pytest.raises(OSError, match=r"."):
        tls_server.scrape()  # without TLS


def test_the_http_port_takes_up_a_changed_certificate(
    models: Path, authority: Authority, tmp_path: Path
) -> None:
    settings = tls_settings(authority)
    files = settings["security"]
    with LiveServer(models, {"security": {**files, "refresh_seconds": 0.05}}) as server:
        other = make_authority(tmp_path / "other")
        pair = other.issue("server")
        files["certificate"].write_bytes(pair.certificate.read_bytes())
        files["key"].write_bytes(pair.key.read_bytes())

        assert eventually(lambda: is_trusted(server, other))


def is_trusted(server: LiveServer, authority: Authority) -> bool:
    try:
        return https(server, authority) == "ready\n"
    except OSError:
        return False


def test_tls_and_tokens_choose_grpcio(models: Path, authority: Authority) -> None:
    settings = {**tls_settings(authority), "server": {"front_end": "auto"}}
    with LiveServer(models, settings) as server:
        assert server.server.grpc.front_end == "grpcio"


def test_ten_thousand_wrong_tokens_disturb_no_other_caller(
    token_server: LiveServer, secrets: tuple[Path, dict[str, str]]
) -> None:
    before = failures(token_server, "unknown")
    wrong = (("authorization", "Bearer wrong"),)
    live = token_server.method("ServerLive")
    calls = [live.future(inference.ServerLiveRequest(), metadata=wrong, timeout=60) for _ in range(10_000)]
    with client(token_server, secrets[1]["infer"]) as caller:
        assert is_answered(caller)

    assert {call.code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}
    assert failures(token_server, "unknown") == before + 10_000
