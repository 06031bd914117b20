"""Connections that misbehave leave the other callers unaffected."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import numpy as np
import psutil
from numpy.typing import NDArray

from serving.api.wire import INFERENCE_SERVICE, inference
from serving.client import Client
from serving.errors import OfframpError
from tests.end_to_end.images import EASY, HARD
from tests.end_to_end.server_process import ServerProcess
from tests.serving.frontend import http2
from tests.serving.live_server import eventually


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

    def ask_and_leave(images: NDArray[np.uint8]) -> None:
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


def test_hundreds_of_connections_at_once_leave_others_unaffected(server: ServerProcess) -> None:
    port = int(server.address.rpartition(":")[2])
    wire = _request(HARD)
    with ExitStack() as stack, Client(server.address) as client:
        for number in range(300):
            hostile = stack.enter_context(http2.connection(port))
            if number % 3 == 0:
                hostile.sendall(http2.headers(1))  # without a message
            elif number % 3 == 1:
                hostile.sendall(http2.headers(1) + http2.message(1, wire))  # the answer is never read

        assert [client.predict("scripted", HARD).label_N.tolist() for _ in range(50)] == [[2]] * 50

    assert eventually(lambda: server.metric("offramp_requests_in_flight") == 0)


def test_hundreds_of_calls_cancelled_at_once_leave_others_unaffected(server: ServerProcess) -> None:
    wire = _request(np.repeat(HARD, 16, axis=0))
    with grpc.insecure_channel(server.address) as channel, Client(server.address) as client:
        call = channel.unary_unary(f"/{INFERENCE_SERVICE}/ModelInfer")
        for _ in range(10):
            opened = [call.future(wire, timeout=20) for _ in range(50)]
            for each in opened:
                each.cancel()
            assert client.predict("scripted", HARD).label_N.tolist() == [2]

    assert eventually(lambda: server.metric("offramp_requests_in_flight") == 0)
    assert eventually(lambda: server.metric("offramp_rows_waiting") == 0)


def test_repeated_large_messages_do_not_raise_the_servers_memory(server: ServerProcess) -> None:
    call_size, process = 8_000_000, psutil.Process(server.pid)
    with grpc.insecure_channel(server.address, [("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(f"/{INFERENCE_SERVICE}/ModelInfer")

        def send(times: int) -> int:
            for _ in range(times):
                call.future(b"\xff" * call_size, timeout=20).exception()
            resident: int = process.memory_info().rss
            return resident

        warm = send(5)
        assert send(30) < warm + 5 * call_size


STREAM_BYTES = {"grpcio": 1_000_000, "native": 12_000_000}
"""Memory limit of an unread stream of 50 KB requests; see docs/security.md."""


def test_streams_that_nobody_reads_hold_little_memory(server: ServerProcess) -> None:
    streams, sent, process = 30, [0], psutil.Process(server.pid)
    request = inference.ModelInferRequest.FromString(_request(HARD))
    request.id = "x" * 50_000  # returned in the answer
    wire = request.SerializeToString()

    def requests() -> Iterator[bytes]:
        for _ in range(600):
            sent[0] += 1
            yield wire

    with grpc.insecure_channel(server.address) as channel, Client(server.address) as client:
        before = process.memory_info().rss
        calls = [
            channel.stream_stream(f"/{INFERENCE_SERVICE}/ModelStreamInfer")(requests(), timeout=60)
            for _ in range(streams)
        ]
        known = -1
        while known < sent[0]:  # until the server stops reading
            known = sent[0]
            for _ in range(100):
                assert client.predict("scripted", EASY).label_N.tolist() == [1]
        held = process.memory_info().rss - before
        for call in calls:
            call.cancel()

    assert held < streams * STREAM_BYTES[server.front_end]


def _request(images: NDArray[np.uint8]) -> bytes:
    request = inference.ModelInferRequest(model_name="scripted", raw_input_contents=[images.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    return request.SerializeToString()


def _ignore_errors(client: Client, images: NDArray[np.uint8]) -> None:
    try:
        client.predict("scripted", images)
    except (OfframpError, ValueError, grpc.RpcError):  # the kind of error depends on when the channel closes
        return
