"""The end of all connections of a port, and of no other."""

import socket
from collections.abc import Iterator

import psutil
import pytest

from serving.frontend.connections import end_connections
from tests.serving.live_server import HOST, PATIENCE_SECONDS


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as listening:
        yield listening


def port_of(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port


def test_what_was_written_arrives_and_then_the_connection_ends(listener: socket.socket) -> None:
    with socket.create_connection((HOST, port_of(listener)), PATIENCE_SECONDS) as client:
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"answer")
            end_connections(port_of(listener))

            assert client.recv(100) == b"answer"
            assert client.recv(100) == b""


def test_nobody_connects_any_more(listener: socket.socket) -> None:
    end_connections(port_of(listener))

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port_of(listener)), PATIENCE_SECONDS)


def test_it_leaves_no_file_open(listener: socket.socket) -> None:
    process = psutil.Process()
    before = process.num_fds()

    end_connections(port_of(listener))

    assert process.num_fds() == before


def test_other_ports_are_left_alone(listener: socket.socket) -> None:
    with socket.create_server((HOST, 0)) as other:
        end_connections(port_of(listener))
        with socket.create_connection((HOST, port_of(other)), PATIENCE_SECONDS) as client:
            accepted, _ = other.accept()
            with accepted:
                end_connections(port_of(listener))
                accepted.sendall(b"answer")
                assert client.recv(100) == b"answer"
