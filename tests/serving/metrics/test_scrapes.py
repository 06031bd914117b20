"""The metrics port with clients that send or read too slowly, or disconnect."""

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import structlog
from prometheus_client import CollectorRegistry, Gauge

from serving.metrics import scrapes
from serving.metrics.instruments import Metrics
from serving.metrics.scrapes import Scrapes, listen_for_scrapes
from tests.serving.live_server import HOST, PATIENCE_SECONDS, eventually

HALF = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
WHOLE = HALF + b"\r\n"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def port(registry: CollectorRegistry) -> Iterator[Scrapes]:
    Gauge("answer", "What is asked for.", registry=registry).set(42)
    listening = listen_for_scrapes(HOST, 0, registry, Metrics(registry))
    yield listening
    listening.close()


@pytest.fixture
def ended_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes, "CONNECTION_SECONDS", 0.1)


def connect(port: Scrapes, sent: bytes) -> socket.socket:
    connection = socket.create_connection((HOST, port.port), timeout=PATIENCE_SECONDS)
    connection.sendall(sent)
    return connection


def scrape(port: Scrapes) -> str:
    with urllib.request.urlopen(f"http://{HOST}:{port.port}/metrics", timeout=PATIENCE_SECONDS) as page:
        text: str = page.read().decode()
    return text


def is_closed(connection: socket.socket) -> bool:
    """Wait until the server closes the connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_scrape_is_answered(port: Scrapes) -> None:
    assert "answer 42.0" in scrape(port)


def test_threads_and_connections_are_bounded(port: Scrapes, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        half = [stack.enter_context(connect(port, HALF)) for _ in range(scrapes.MAX_CONNECTIONS)]
        refused = [stack.enter_context(connect(port, b"")) for _ in range(50)]

        assert all(is_closed(connection) for connection in refused)
        assert threading.active_count() - before <= scrapes.MAX_CONNECTIONS

        monkeypatch.setattr(scrapes, "CONNECTION_SECONDS", 0.1)
        assert all(is_closed(connection) for connection in half)
    assert eventually(lambda: threading.active_count() == before)
    assert "answer 42.0" in scrape(port)


@pytest.mark.usefixtures("ended_soon")
@pytest.mark.parametrize("sent", [b"", b"GET", HALF])
def test_the_connection_of_an_incomplete_request_is_closed(port: Scrapes, sent: bytes) -> None:
    with connect(port, sent) as connection:
        assert is_closed(connection)


def test_the_connection_of_a_client_that_does_not_read_is_closed(
    registry: CollectorRegistry, port: Scrapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Gauge("large", "More than all socket buffers hold.", ["number"], registry=registry)
    for number in range(200):
        large.labels(f"{number}" + "x" * 100_000)
    before = threading.active_count()

    with connect(port, WHOLE) as connection:
        assert connection.recv(1)
        monkeypatch.setattr(scrapes, "CONNECTION_SECONDS", 0.1)
        assert eventually(lambda: threading.active_count() == before)


def test_a_scraper_that_disconnects_is_not_logged(port: Scrapes, capfd: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with structlog.testing.capture_logs() as logged:
        for sent in (HALF, WHOLE):
            for _ in range(20):
                connection = connect(port, sent)
                # The close resets the connection, so the server's next write fails.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.close()
        assert "answer 42.0" in scrape(port)
        assert eventually(lambda: threading.active_count() == before)

    assert (logged, capfd.readouterr().err) == ([], "")
