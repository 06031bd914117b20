"""The mixed load of a soak: callers with valid and invalid requests, each in its own thread.

A caller repeats one action and counts outcomes; one that KINDS does not allow is a fault of the server.
"""

import contextlib
import socket
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.random import Generator as Random
from numpy.typing import NDArray

from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, health, inference
from serving.client import Client
from serving.datatypes import DTYPES
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
class SoakTarget:
    """A server, its model, and rows with the labels that the model gives them at full depth."""

    address: str
    metrics_port: int
    model: str
    input: str
    images: NDArray[np.generic]
    """[N, ...], N at least the largest of ROWS."""
    expected_N: NDArray[np.int64]

    def request(self, rows: int, model: str = "", shape: tuple[int, ...] = ()) -> Any:  # noqa: ANN401 - made at run time
        """Return a ModelInferRequest; a given model or shape replaces the valid one."""
        images = self.images[:rows]
        request = inference.ModelInferRequest(
            model_name=model or self.model, raw_input_contents=[images.tobytes()]
        )
        datatype = next(name for name, dtype in DTYPES.items() if dtype == images.dtype)
        request.inputs.add(name=self.input, datatype=datatype, shape=shape or images.shape)
        return request


@dataclass(frozen=True)
class Caller:
    """The connections and the random numbers of one thread."""

    target: SoakTarget
    random: Random
    client: Client
    channel: grpc.Channel

    def infer(self, rows: int, **options: Any) -> Any:  # noqa: ANN401 - passed on
        """Send rows with the client."""
        return self.client.infer(self.target.model, {self.target.input: self.target.images[:rows]}, **options)

    def unary(self, rpc: str, payload: bytes) -> grpc.Future:
        """Send bytes as a request."""
        return self.channel.unary_unary(f"/{INFERENCE_SERVICE}/{rpc}").future(
            payload, timeout=TIMEOUT_SECONDS
        )


def unary(caller: Caller) -> str:
    """Send a request of any size at any point; check every label at full depth."""
    rows, options = int(caller.random.choice(ROWS)), OPTIONS[caller.random.integers(len(OPTIONS))]
    answer = caller.infer(rows, **options)
    if options == EXACT and not np.array_equal(answer.label_N, caller.target.expected_N[:rows]):
        return "wrong answer"
    return f"answered by version {answer.model_version}"


def deadlines(caller: Caller) -> str:
    """Send a request that may miss its deadline."""
    caller.infer(8, timeout_seconds=caller.random.uniform(*DEADLINE_SECONDS))
    return "answered"


def cancelled(caller: Caller) -> str:
    """Cancel a request after a few milliseconds."""
    future = caller.unary("ModelInfer", caller.target.request(64).SerializeToString())
    threading.Event().wait(caller.random.uniform(*CANCEL_SECONDS))
    future.cancel()
    return "cancelled" if future.cancelled() else "answered"


def streams(caller: Caller) -> str:
    """Send a stream; cancel half of the streams after the first answer."""
    call = caller.channel.stream_stream(
        f"/{INFERENCE_SERVICE}/ModelStreamInfer",
        response_deserializer=inference.ModelStreamInferResponse.FromString,
    )
    sizes = caller.random.choice(ROWS, STREAM_REQUESTS)
    requests = [caller.target.request(int(rows)).SerializeToString() for rows in sizes]
    responses = call(iter(requests), timeout=TIMEOUT_SECONDS)
    leaves, answered = bool(caller.random.integers(2)), 0
    for response in responses:
        answered += not response.error_message
        if leaves:
            responses.cancel()
            break
    name, count = ("left", 1) if leaves else ("whole", STREAM_REQUESTS)
    return f"{name} stream" if answered == count else f"{name} stream with errors"


def watches(caller: Caller) -> str:
    """Watch the server's health for a moment."""
    watch = caller.channel.unary_stream(
        f"/{HEALTH_SERVICE}/Watch",
        request_serializer=health.HealthCheckRequest.SerializeToString,
        response_deserializer=health.HealthCheckResponse.FromString,
    )
    states = watch(health.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
    state = next(iter(states)).status
    threading.Event().wait(WATCH_SECONDS)
    states.cancel()
    return str(health.HealthCheckResponse.ServingStatus.Name(state)).lower()


def descriptions(caller: Caller) -> str:
    """Request statistics, metadata, the configuration or the index."""
    rpc = str(caller.random.choice(DESCRIPTIONS))
    request = getattr(inference, f"{rpc}Request")
    fields = {"name": caller.target.model} if rpc.startswith("Model") else {}
    caller.unary(rpc, request(**fields).SerializeToString()).result()
    return "answered"


def scrapes(caller: Caller) -> str:
    """Read the metrics; half of the time, close the connection in the middle of the request."""
    host, port = caller.target.address.rpartition(":")[0], caller.target.metrics_port
    if caller.random.integers(2):
        with socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        return "left"
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=TIMEOUT_SECONDS) as page:
        return "scraped" if b"offramp_requests_total" in page.read() else "scraped without metrics"


def malformed(caller: Caller) -> str:
    """Send random bytes, a request that fits no model, or bytes that are not HTTP/2."""
    target, random = caller.target, caller.random
    row_shape = target.images.shape[1:]
    payloads = (
        random.bytes(200),
        target.request(1, shape=(-1, *row_shape)).SerializeToString(),
        target.request(1, shape=(2**40, *row_shape)).SerializeToString(),
        target.request(1, model="nobody").SerializeToString(),
    )
    number = random.integers(len(payloads) + 1)
    if number < len(payloads):
        caller.unary("ModelInfer", payloads[number]).result()
        return "answered"
    host, _, port = target.address.rpartition(":")
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as connection,
    ):
        connection.sendall(random.bytes(1000))
    return "left"


def connections(caller: Caller) -> str:
    """Open a connection for one request."""
    with Client(caller.target.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        client.infer(caller.target.model, {caller.target.input: caller.target.images[:1]})
    return "answered"


@dataclass(frozen=True)
class CallerKind:
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
    "unary": CallerKind(unary, 2, 0.0, (*VERSIONS, OVERLOADED)),
    "deadlines": CallerKind(deadlines, 1, 0.02, ("answered", EXPIRED, OVERLOADED)),
    "cancelled": CallerKind(cancelled, 1, 0.02, ("answered", "cancelled")),
    "streams": CallerKind(streams, 1, 0.2, ("whole stream", "left stream")),
    "watches": CallerKind(watches, 2, 0.0, ("serving",)),
    "descriptions": CallerKind(descriptions, 1, 0.05, ("answered",)),
    "scrapes": CallerKind(scrapes, 1, 0.2, ("scraped", "left")),
    "malformed": CallerKind(malformed, 1, 0.05, ("INVALID_ARGUMENT", "NOT_FOUND", "left")),
    "connections": CallerKind(connections, 1, 0.1, ("answered", OVERLOADED)),
}


@contextlib.contextmanager
def mixed_load(target: SoakTarget) -> Iterator[Mapping[str, Sequence[Counter[str]]]]:
    """Run all callers; yield the number of each outcome, by kind and thread."""
    stop = threading.Event()
    counts = {name: [Counter[str]() for _ in range(kind.threads)] for name, kind in KINDS.items()}
    threads = [
        threading.Thread(target=_repeat, args=(name, number, target, counter, stop), daemon=True)
        for name, counters in counts.items()
        for number, counter in enumerate(counters)
    ]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join(2 * TIMEOUT_SECONDS)


def _repeat(name: str, number: int, target: SoakTarget, counter: Counter[str], stop: threading.Event) -> None:
    kind, random = KINDS[name], np.random.default_rng([*name.encode(), number])
    with (
        Client(target.address, timeout_seconds=TIMEOUT_SECONDS) as client,
        grpc.insecure_channel(target.address) as channel,
    ):
        caller = Caller(target, random, client, channel)
        while not stop.wait(kind.pause_seconds):
            counter[_outcome(kind, caller)] += 1


def _outcome(kind: CallerKind, caller: Caller) -> str:
    try:
        return kind.act(caller)
    except OfframpError as error:
        return type(error).__name__
    except grpc.RpcError as error:
        name: str = error.code().name
        return f"{name}: {error.details()}" if name == "UNAVAILABLE" else name
    except Exception as error:  # a fault of the server, or of this caller
        return f"{type(error).__name__}: {error}"
