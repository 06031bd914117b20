"""Connections that misbehave leave the other callers unaffected."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from serving.client import Client
from serving.errors import OfframpError
from tests.end_to_end.images import EASY, HARD
from tests.end_to_end.server_process import ServerProcess


def test_random_bytes_on_the_port_leave_others_unaffected(server: ServerProcess) -> None:
    host, _, port = server.address.rpartition(":")
    noise = np.random.default_rng(0).bytes(4096)
    with Client(server.address) as client:
        for sent in (b"", noise, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + noise):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(sent)
            assert client.predict("scripted", EASY).label_N.tolist() == [1]


def test_half_open_connections_leave_others_unaffected(server: ServerProcess) -> None:
    host, _, port = server.address.rpartition(":")
    connections = [socket.create_connection((host, int(port)), timeout=10) for _ in range(50)]
    try:
        with Client(server.address) as client:
            assert client.predict("scripted", EASY).label_N.tolist() == [1]
    finally:
        for connection in connections:
            connection.close()


def test_callers_that_disconnect_mid_call_leave_others_unaffected(server: ServerProcess) -> None:
    requests = [np.repeat(HARD, 64, axis=0)] * 20

    def ask_and_leave(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        client = Client(server.address)
        asking = threading.Thread(target=lambda: _ignore_errors(client, images))
        asking.start()
        client.close()
        asking.join()

    with ThreadPoolExecutor(4) as leavers, Client(server.address) as client:
        leaving = [leavers.submit(ask_and_leave, images) for images in requests]
        answers = [client.predict("scripted", HARD).label_N.tolist() for _ in range(50)]
        for future in leaving:
            future.result()

    assert answers == [[2]] * 50


def _ignore_errors(client: Client, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    try:
        client.predict("scripted", images)
    except (OfframpError, ValueError, grpc.RpcError):  # closing under a call ends it in several ways
        return
