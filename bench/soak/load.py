"""The mixed load of a soak: threads that send valid and invalid requests.

A thread repeats one action and counts outcomes; one that KINDS does not allow is a fault of the server.
"""

import contextlib
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from bench.serving.servers import HOST
from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, health, inference
from serving.client import Client
from serving.client.inference import Prediction
from serving.errors import DeadlineExpired, OfframpError, Overloaded

TIMEOUT_SECONDS = 60.0
ROWS = (1, 8, 64)
EXACT = {"operating_point": "exact"}
OPTIONS: tuple[dict[str, Any], ...] = (EXACT, {}, {"threshold": 0.5}, {"max_exit": 0})
STREAM_REQUESTS = 20
WATCH_SECONDS = 0.5
DEADLINE_SECONDS = (1e-3, 20e-3)
CANCEL_SECONDS = (0.0, 5e-3)
DESCRIPTIONS = ("ModelStatistics", "ModelMetadata", "ModelConfig", "ServerMetadata", "RepositoryIndex")


@dataclass(frozen=True)
class Caller:
    """The actions of all threads on one server. Each returns its outcome."""

    address: str
    metrics_port: int
    model: str
    images: NDArray[np.uint8]
    """[N, ...], N at least the largest of ROWS."""
    expected_N: NDArray[np.int64]
    """The labels at full depth."""
    client: Client
    channel: grpc.Channel
    random: np.random.Generator
    """Thread-safe: its methods hold a lock."""

    def predict(self, rows: int, **options: Any) -> Prediction:  # noqa: ANN401 - passed on
        """Send rows with the client."""
        return self.client.predict(self.model, self.images[:rows], **options)

    def request(self, rows: int, model: str = "", shape: tuple[int, ...] = ()) -> bytes:
        """Encode a ModelInferRequest; a given model or shape replaces the valid one."""
        images = self.images[:rows]
        contents = [images.tobytes()]
        request = inference.ModelInferRequest(model_name=model or self.model, raw_input_contents=contents)
        request.inputs.add(name="image", datatype="UINT8", shape=shape or images.shape)
        return bytes(request.SerializeToString())

    def call(self, rpc: str, payload: bytes) -> grpc.Future:
        """Send bytes as a request."""
        method = self.channel.unary_unary(f"/{INFERENCE_SERVICE}/{rpc}")
        return method.future(payload, timeout=TIMEOUT_SECONDS)

    def send(self, port: int, payload: bytes) -> str:
        """Send bytes over a new connection, and close it without reading; the outcome is "left"."""
        with socket.create_connection((HOST, port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(payload)
        return "left"

    def unary(self) -> str:
        """Send a request of any size at any point; check every label at full depth."""
        rows, options = int(self.random.choice(ROWS)), OPTIONS[self.random.integers(len(OPTIONS))]
        answer = self.predict(rows, **options)
        if options == EXACT and not np.array_equal(answer.label_N, self.expected_N[:rows]):
            return "wrong answer"
        return f"answered by version {answer.model_version}"

    def deadlines(self) -> str:
        """Send a request that may miss its deadline."""
        self.predict(8, timeout_seconds=self.random.uniform(*DEADLINE_SECONDS))
        return "answered"

    def cancelled(self) -> str:
        """Cancel a request after a few milliseconds."""
        future = self.call("ModelInfer", self.request(64))
        time.sleep(self.random.uniform(*CANCEL_SECONDS))
        future.cancel()
        return "cancelled" if future.cancelled() else "answered"

    def streams(self) -> str:
        """Send a stream; cancel half of the streams after the first answer."""
        stream = self.channel.stream_stream(
            f"/{INFERENCE_SERVICE}/ModelStreamInfer",
            response_deserializer=inference.ModelStreamInferResponse.FromString,
        )
        requests = [self.request(int(rows)) for rows in self.random.choice(ROWS, STREAM_REQUESTS)]
        responses = stream(iter(requests), timeout=TIMEOUT_SECONDS)
        leaves = bool(self.random.integers(2))
        failed = [bool(response.error_message) for response in islice(responses, 1 if leaves else None)]
        responses.cancel()  # has no effect after the last answer
        name, count = ("left", 1) if leaves else ("whole", STREAM_REQUESTS)
        return f"{name} stream" if failed == [False] * count else f"{name} stream with errors"

    def watches(self) -> str:
        """Watch the server's health for a moment."""
        watch = self.channel.unary_stream(
            f"/{HEALTH_SERVICE}/Watch", response_deserializer=health.HealthCheckResponse.FromString
        )
        states = watch(b"", timeout=TIMEOUT_SECONDS)
        state = next(iter(states)).status
        time.sleep(WATCH_SECONDS)
        states.cancel()
        return str(health.HealthCheckResponse.ServingStatus.Name(state)).lower()

    def descriptions(self) -> str:
        """Request statistics, metadata, the configuration or the index."""
        rpc = str(self.random.choice(DESCRIPTIONS))
        fields = {"name": self.model} if rpc.startswith("Model") else {}
        self.call(rpc, getattr(inference, f"{rpc}Request")(**fields).SerializeToString()).result()
        return "answered"

    def scrapes(self) -> str:
        """Read the metrics; half of the time, close the connection in the middle of the request."""
        if self.random.integers(2):
            return self.send(self.metrics_port, b"GET /metrics HTTP/1.1\r\n")
        url = f"http://{HOST}:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as page:
            return "scraped" if b"offramp_requests_total" in page.read() else "scraped without metrics"

    def malformed(self) -> str:
        """Send random bytes, a request that fits no model, or bytes that are not HTTP/2."""
        row_shape = self.images.shape[1:]
        payloads = (
            self.random.bytes(200),
            self.request(1, shape=(-1, *row_shape)),
            self.request(1, shape=(2**40, *row_shape)),
            self.request(1, model="nobody"),
        )
        number = self.random.integers(len(payloads) + 1)
        if number < len(payloads):
            self.call("ModelInfer", payloads[number]).result()
            return "answered"
        with contextlib.suppress(ConnectionError):
            self.send(int(self.address.rpartition(":")[2]), self.random.bytes(1000))
        return "left"

    def connections(self) -> str:
        """Open a connection for one request."""
        with Client(self.address, timeout_seconds=TIMEOUT_SECONDS) as client:
            client.predict(self.model, self.images[:1])
        return "answered"


class CallerKind(NamedTuple):
    """An action, and how threads repeat it."""

    act: Callable[[Caller], str]
    threads: int
    pause_seconds: float
    """Pause after every action."""
    expected: tuple[str, ...]
    """The allowed outcomes."""


OVERLOADED, EXPIRED = Overloaded.__name__, DeadlineExpired.__name__
VERSIONS = ("answered by version 1", "answered by version 2")
KINDS: Mapping[str, CallerKind] = {
    "unary": CallerKind(Caller.unary, 2, 0.0, (*VERSIONS, OVERLOADED)),
    "deadlines": CallerKind(Caller.deadlines, 1, 0.02, ("answered", EXPIRED, OVERLOADED)),
    "cancelled": CallerKind(Caller.cancelled, 1, 0.02, ("answered", "cancelled")),
    "streams": CallerKind(Caller.streams, 1, 0.2, ("whole stream", "left stream")),
    "watches": CallerKind(Caller.watches, 2, 0.0, ("serving",)),
    "descriptions": CallerKind(Caller.descriptions, 1, 0.05, ("answered",)),
    "scrapes": CallerKind(Caller.scrapes, 1, 0.2, ("scraped", "left")),
    "malformed": CallerKind(Caller.malformed, 1, 0.05, ("INVALID_ARGUMENT", "NOT_FOUND", "left")),
    "connections": CallerKind(Caller.connections, 1, 0.1, ("answered", OVERLOADED)),
}


@contextlib.contextmanager
def mixed_load(caller: Caller) -> Iterator[Mapping[str, Sequence[Counter[str]]]]:
    """Repeat all actions in threads; yield the number of each outcome, by kind and thread."""
    stop = threading.Event()
    counts = {name: [Counter[str]() for _ in range(kind.threads)] for name, kind in KINDS.items()}
    with ThreadPoolExecutor(sum(kind.threads for kind in KINDS.values())) as pool:
        for name, counters in counts.items():
            for counter in counters:
                pool.submit(_repeat, KINDS[name], caller, counter, stop)
        try:
            yield counts
        finally:
            stop.set()


def _repeat(kind: CallerKind, caller: Caller, counter: Counter[str], stop: threading.Event) -> None:
    while not stop.wait(kind.pause_seconds):
        try:
            outcome = kind.act(caller)
        except OfframpError as error:
            outcome = type(error).__name__
        except grpc.RpcError as error:
            code: str = error.code().name
            outcome = f"{code}: {error.details()}" if code == "UNAVAILABLE" else code
        except Exception as error:  # a fault of the server, or of this caller
            outcome = f"{type(error).__name__}: {error}"
        counter[outcome] += 1
