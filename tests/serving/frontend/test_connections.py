"""Closing all connections of one port."""

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


def test_written_data_arrives_before_the_connection_ends(listener: socket.socket) -> None:
    with socket.create_connection((HOST, port_of(listener)), PATIENCE_SECONDS) as client:
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"answer")
            end_connections(port_of(listener))

            assert client.recv(100) == b"answer"
            assert client.recv(100) == b""


def test_new_connections_are_refused(listener: socket.socket) -> None:
    end_connections(port_of(listener))

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port_of(listener)), PATIENCE_SECONDS)


def test_no_file_stays_open(listener: socket.socket) -> None:
    process = psutil.Process()
    before = process.num_fds()

    end_connections(port_of(listener))

    assert process.num_fds() == before


def test_connections_of_other_ports_continue(listener: socket.socket) -> None:
    with socket.create_server((HOST, 0)) as other:
        end_connections(port_of(listener))
        with socket.create_connection((HOST, port_of(other)), PATIENCE_SECONDS) as client:
            accepted, _ = other.accept()
            with accepted:
                end_connections(port_of(listener))
                accepted.sendall(b"answer")
                assert client.recv(100) == b"answer"
