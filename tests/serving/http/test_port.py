"""The HTTP port with clients that send or read too slowly, or disconnect."""

import contextlib
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry, Gauge

from serving.http import port as http_port
from serving.http.application import make_application
from serving.http.port import MAX_HEADER_BYTES, HttpPort
from serving.http.status import StatusSource
from serving.lifecycle.readiness import Readiness
from serving.metrics.instruments import Metrics
from serving.repository.repository import ModelRepository
from tests.serving.live_server import HOST, PATIENCE_SECONDS, eventually

HALF = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
WHOLE = HALF + b"\r\n"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def port(registry: CollectorRegistry, tmp_path: Path) -> Iterator[HttpPort]:
    Gauge("answer", "What is asked for.", registry=registry).set(42)
    listening = HttpPort(HOST, 0, make_application(source(registry, tmp_path), Metrics(registry)))
    yield listening
    listening.close()


def source(registry: CollectorRegistry, models: Path) -> StatusSource:
    """Return the source of a server without models."""
    return StatusSource(
        repository=ModelRepository(models, load=lambda _: pytest.fail("loaded"), close=lambda _: None),
        readiness=Readiness(),
        registry=registry,
        alive=lambda: True,
        device="cpu",
        front_end="grpcio",
        allow_empty=False,
        jobs=list,
    )


@pytest.fixture
def ended_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "CONNECTION_SECONDS", 0.1)


def connect(port: HttpPort, sent: bytes) -> socket.socket:
    connection = socket.create_connection((HOST, port.port), timeout=PATIENCE_SECONDS)
    connection.sendall(sent)
    return connection


def scrape(port: HttpPort) -> str:
    with urllib.request.urlopen(f"http://{HOST}:{port.port}/metrics", timeout=PATIENCE_SECONDS) as page:
        text: str = page.read().decode()
    return text


def is_closed(connection: socket.socket) -> bool:
    """Wait until the server closes the connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_scrape_is_answered(port: HttpPort) -> None:
    assert "answer 42.0" in scrape(port)


def test_connections_are_bounded(port: HttpPort, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        half = [stack.enter_context(connect(port, HALF)) for _ in range(http_port.MAX_CONNECTIONS)]
        refused = [stack.enter_context(connect(port, b"")) for _ in range(50)]

        assert all(is_closed(connection) for connection in refused)

        for connection in half:
            connection.close()
    assert eventually(lambda: "answer 42.0" in scrape(port))


@pytest.mark.usefixtures("ended_soon")
@pytest.mark.parametrize("sent", [b"", b"GET", HALF])
def test_the_connection_of_an_incomplete_request_is_closed(port: HttpPort, sent: bytes) -> None:
    with connect(port, sent) as connection:
        assert is_closed(connection)


def test_the_connection_of_a_client_that_does_not_read_is_closed(
    registry: CollectorRegistry, port: HttpPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Gauge("large", "More than all socket buffers hold.", ["number"], registry=registry)
    for number in range(200):
        large.labels(f"{number}" + "x" * 100_000)

    with connect(port, WHOLE) as connection:
        received = 0
        while data := connection.recv(1 << 16):
            received += len(data)
            break
        assert received
        assert eventually(lambda: port.connections == 0)


def test_a_scraper_that_disconnects_is_not_logged(port: HttpPort, capfd: pytest.CaptureFixture[str]) -> None:
    with structlog.testing.capture_logs() as logged:
        for sent in (HALF, WHOLE):
            for _ in range(20):
                connection = connect(port, sent)
                # The close resets the connection, so the server's next write fails.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.close()
        assert "answer 42.0" in scrape(port)
        assert eventually(lambda: port.connections == 0)

    assert (logged, capfd.readouterr().err) == ([], "")


def answers(port: HttpPort, sent: bytes) -> list[bytes]:
    """Send bytes, and return the status line of each answer until the server closes the connection."""
    received = b""
    with connect(port, sent) as connection, contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 16):
            received += data
    return re.findall(rb"HTTP/1\.1 (\d+)", received)


@pytest.mark.usefixtures("ended_soon")
@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        + WHOLE,
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 40\r\n\r\n" + WHOLE,
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n" + WHOLE,
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + WHOLE,
    ],
    ids=["both lengths", "two lengths", "unknown encoding", "space before the colon"],
)
def test_a_request_of_unclear_length_gets_no_answer_to_what_it_hides(port: HttpPort, sent: bytes) -> None:
    assert answers(port, sent) in ([b"400"], [b"501"], [b"405"])
    assert "answer 42.0" in scrape(port)


@pytest.mark.usefixtures("ended_soon")
@pytest.mark.parametrize(
    "sent",
    [
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 8 * MAX_HEADER_BYTES + b"\r\n\r\n",
        b"GET /" + b"a" * 8 * MAX_HEADER_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 2 * MAX_HEADER_BYTES,
    ],
    ids=["value", "path", "many"],
)
def test_headers_that_are_too_large_are_refused(port: HttpPort, sent: bytes) -> None:
    assert answers(port, sent) in ([b"400"], [b"431"], [])
    assert "answer 42.0" in scrape(port)


@pytest.mark.usefixtures("ended_soon")
def test_random_bytes_are_refused(port: HttpPort) -> None:
    assert answers(port, bytes(range(256)) * 8) in ([b"400"], [])


def test_a_thousand_slow_clients_hold_a_hundred_connections(port: HttpPort) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(port, b"GET /metrics HTTP/1.1\r\n")) for _ in range(1000)]
        assert eventually(lambda: port.connections == http_port.MAX_CONNECTIONS)
        for connection in slow:
            connection.close()
    assert eventually(lambda: port.connections == 0)
    assert "answer 42.0" in scrape(port)
