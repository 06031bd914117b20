"""HTTP/2 frames for tests, to send what no gRPC client sends."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from serving.api.wire import INFERENCE_SERVICE
from tests.serving.live_server import PATIENCE_SECONDS

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS = 0, 1, 3, 4
END_STREAM, END_HEADERS = 1, 4
CANCEL = 8

_FIELDS = {
    ":method": "POST",
    ":scheme": "http",
    ":path": f"/{INFERENCE_SERVICE}/ModelInfer",
    ":authority": "localhost",
    "te": "trailers",
    "content-type": "application/grpc",
}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Build a frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def headers(stream: int) -> bytes:
    """Build a ModelInfer call's headers, as literals without indexing (RFC 7541, section 6.2.2)."""
    block = b""
    for name, value in _FIELDS.items():
        block += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return frame(HEADERS, END_HEADERS, stream, block)


def message(stream: int, payload: bytes) -> bytes:
    """Build the only message of a call, with the end of the stream."""
    return frame(DATA, END_STREAM, stream, b"\0" + len(payload).to_bytes(4) + payload)


def reset(stream: int) -> bytes:
    """Build the frame that cancels a call."""
    return frame(RESET, 0, stream, CANCEL.to_bytes(4))


@contextmanager
def connection(port: int, *, greet: bool = True) -> Iterator[socket.socket]:
    """Connect to the server. greet: send the HTTP/2 preface."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connected:
        if greet:
            connected.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        yield connected
