"""The mixed load of a soak: callers of several kinds, good and bad, each in a thread of its own.

A caller does one thing again and again, and states after each time how it went. What may happen to a
good call is in EXPECTED; anything else is a fault of the server.
"""

import contextlib
import socket
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np
from numpy.random import Generator as Random
from numpy.typing import NDArray

from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, health, inference, service_rpcs
from serving.client import Client
from serving.datatypes import DTYPES
from serving.errors import DeadlineExpired, OfframpError, Overloaded

TIMEOUT_SECONDS = 60.0
ROWS = (1, 8, 64)
OPTIONS: tuple[dict[str, Any], ...] = ({"operating_point": "exact"}, {}, {"threshold": 0.5}, {"max_exit": 0})
STREAM_REQUESTS = 20
WATCH_SECONDS = 0.5
SHORTEST_DEADLINE_SECONDS, LONGEST_DEADLINE_SECONDS = 1e-3, 20e-3
LONGEST_CANCEL_SECONDS = 5e-3


@dataclass(frozen=True)
class SoakTarget:
    """A server, what it serves, and rows with the labels that it must answer at full depth."""

    address: str
    metrics_port: int
    model: str
    input: str
    images: NDArray[np.generic]
    """[N, ...], N at least the largest of ROWS."""
    expected_N: NDArray[np.int64]

    def payload(self, rows: int) -> bytes:
        """Return the bytes of a ModelInferRequest of the first rows."""
        payload: bytes = self.request(self.images[:rows]).SerializeToString()
        return payload

    def request(self, images: NDArray[np.generic], shape: tuple[int, ...] | None = None) -> Any:  # noqa: ANN401 - made at run time
        """Return a ModelInferRequest; shape: what it states in place of the images' own."""
        request = inference.ModelInferRequest(model_name=self.model, raw_input_contents=[images.tobytes()])
        datatype = next(name for name, dtype in DTYPES.items() if dtype == images.dtype)
        request.inputs.add(name=self.input, datatype=datatype, shape=shape or images.shape)
        return request


Steps = Generator[str, None, None]
Caller = Callable[[SoakTarget, Random], Steps]
"""Yields how each time went, for ever."""


def unary(target: SoakTarget, random: Random) -> Steps:
    """Send requests of several sizes at several points; at full depth every label is checked."""
    with Client(target.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        while True:
            rows, options = int(random.choice(ROWS)), OPTIONS[random.integers(len(OPTIONS))]
            try:
                answer = client.infer(target.model, {target.input: target.images[:rows]}, **options)
            except OfframpError as error:
                yield type(error).__name__
                continue
            exact = options.get("operating_point") == "exact"
            wrong = exact and not np.array_equal(answer.label_N, target.expected_N[:rows])
            yield "wrong answer" if wrong else f"answered by version {answer.model_version}"


def deadlines(target: SoakTarget, random: Random) -> Steps:
    """Send requests whose deadline passes at any time."""
    with Client(target.address) as client:
        while True:
            seconds = random.uniform(SHORTEST_DEADLINE_SECONDS, LONGEST_DEADLINE_SECONDS)
            try:
                client.infer(target.model, {target.input: target.images[:8]}, timeout_seconds=seconds)
            except OfframpError as error:
                yield type(error).__name__
            else:
                yield "answered"


def cancelled(target: SoakTarget, random: Random) -> Steps:
    """Cancel requests at any time."""
    with grpc.insecure_channel(target.address) as channel:
        call = channel.unary_unary(f"/{INFERENCE_SERVICE}/ModelInfer")
        payload = target.payload(64)
        while True:
            future = call.future(payload, timeout=TIMEOUT_SECONDS)
            threading.Event().wait(random.uniform(0, LONGEST_CANCEL_SECONDS))
            future.cancel()
            yield "cancelled" if future.cancelled() else "answered"


def streams(target: SoakTarget, random: Random) -> Steps:
    """Send streams; every other one is left after its first answer."""
    with grpc.insecure_channel(target.address) as channel:
        call = channel.stream_stream(
            f"/{INFERENCE_SERVICE}/ModelStreamInfer",
            response_deserializer=inference.ModelStreamInferResponse.FromString,
        )
        while True:
            for whole in (True, False):
                payloads = [target.payload(int(random.choice(ROWS))) for _ in range(STREAM_REQUESTS)]
                responses = call(iter(payloads), timeout=TIMEOUT_SECONDS)
                answered = 0
                try:
                    for response in responses:
                        answered += not response.error_message
                        if not whole:
                            responses.cancel()
                            break
                except grpc.RpcError as error:
                    yield _status(error)
                    continue
                complete = answered == (STREAM_REQUESTS if whole else 1)
                yield f"{'whole' if whole else 'left'} stream{'' if complete else ' with errors'}"


def watches(target: SoakTarget, _: Random) -> Steps:
    """Watch the server's health for a moment, and go away."""
    with grpc.insecure_channel(target.address) as channel:
        watch = channel.unary_stream(
            f"/{HEALTH_SERVICE}/Watch",
            request_serializer=health.HealthCheckRequest.SerializeToString,
            response_deserializer=health.HealthCheckResponse.FromString,
        )
        while True:
            states = watch(health.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
            try:
                state = next(iter(states)).status
            except grpc.RpcError as error:
                yield _status(error)
                continue
            threading.Event().wait(WATCH_SECONDS)
            states.cancel()
            yield str(health.HealthCheckResponse.ServingStatus.Name(state)).lower()


def descriptions(target: SoakTarget, _: Random) -> Steps:
    """Ask for statistics, metadata, the configuration and the index."""
    fields: dict[str, dict[str, str]] = {
        "ModelStatistics": {"name": target.model},
        "ModelMetadata": {"name": target.model},
        "ModelConfig": {"name": target.model},
        "ServerMetadata": {},
        "RepositoryIndex": {},
    }
    with grpc.insecure_channel(target.address) as channel:
        calls = [
            partial(
                channel.unary_unary(
                    f"/{INFERENCE_SERVICE}/{rpc.name}",
                    request_serializer=rpc.request.SerializeToString,
                ),
                rpc.request(**fields[rpc.name]),
                timeout=TIMEOUT_SECONDS,
            )
            for rpc in service_rpcs(INFERENCE_SERVICE)
            if rpc.name in fields
        ]
        while True:
            for call in calls:
                try:
                    call()
                except grpc.RpcError as error:
                    yield _status(error)
                else:
                    yield "answered"


def scrapes(target: SoakTarget, _: Random) -> Steps:
    """Read the metrics; every other time leave in the middle of the request."""
    host = target.address.rpartition(":")[0]
    while True:
        with socket.create_connection((host, target.metrics_port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        yield "left"
        url = f"http://{host}:{target.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as page:
            yield "scraped" if b"offramp_requests_total" in page.read() else "scraped without metrics"


def malformed(target: SoakTarget, random: Random) -> Steps:
    """Send what is no request, what fits no model, and bytes that are no HTTP/2."""
    one = target.images[:1]
    unknown = target.request(one)
    unknown.model_name = "nobody"
    host, _, port = target.address.rpartition(":")
    with grpc.insecure_channel(target.address) as channel:
        call = channel.unary_unary(f"/{INFERENCE_SERVICE}/ModelInfer")
        while True:
            payloads = (
                random.bytes(200),
                target.request(one, (-1, *one.shape[1:])).SerializeToString(),
                target.request(one, (2**40, *one.shape[1:])).SerializeToString(),
                unknown.SerializeToString(),
            )
            for payload in payloads:
                try:
                    call(payload, timeout=TIMEOUT_SECONDS)
                except grpc.RpcError as error:
                    yield _status(error)
                else:
                    yield "answered"
            with (
                contextlib.suppress(ConnectionError),
                socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as connection,
            ):
                connection.sendall(random.bytes(1000))
            yield "left"


def connections(target: SoakTarget, _: Random) -> Steps:
    """Connect for every request anew."""
    while True:
        with Client(target.address, timeout_seconds=TIMEOUT_SECONDS) as client:
            try:
                client.infer(target.model, {target.input: target.images[:1]})
            except OfframpError as error:
                yield type(error).__name__
            else:
                yield "answered"


@dataclass(frozen=True)
class CallerKind:
    """A kind of caller: how many, and how long each waits after every time."""

    caller: Caller
    threads: int
    pause_seconds: float


KINDS: Mapping[str, CallerKind] = {
    "unary": CallerKind(unary, 2, 0.0),
    "deadlines": CallerKind(deadlines, 1, 0.02),
    "cancelled": CallerKind(cancelled, 1, 0.02),
    "streams": CallerKind(streams, 1, 0.2),
    "watches": CallerKind(watches, 2, 0.0),
    "descriptions": CallerKind(descriptions, 1, 0.05),
    "scrapes": CallerKind(scrapes, 1, 0.2),
    "malformed": CallerKind(malformed, 1, 0.05),
    "connections": CallerKind(connections, 1, 0.1),
}

_REFUSED = {Overloaded.__name__}


def _status(error: grpc.RpcError) -> str:
    """Return a call's status, with its text where the server could not be reached."""
    name: str = error.code().name
    return f"{name}: {error.details()}" if name == "UNAVAILABLE" else name


EXPECTED: Mapping[str, set[str]] = {
    "unary": {"answered by version 1", "answered by version 2", *_REFUSED},
    "deadlines": {"answered", DeadlineExpired.__name__, *_REFUSED},
    "cancelled": {"answered", "cancelled"},
    "streams": {"whole stream", "left stream"},
    "watches": {"serving"},
    "descriptions": {"answered"},
    "scrapes": {"scraped", "left"},
    "malformed": {"INVALID_ARGUMENT", "NOT_FOUND", "left"},
    "connections": {"answered", *_REFUSED},
}
"""What may happen to each kind. A stream is slowed down and never refused."""


class SoakLoad:
    """Runs all callers until it is stopped."""

    def __init__(self, target: SoakTarget, seed: int = 0) -> None:
        self._target, self._seed = target, seed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in KINDS}
        self._threads = [
            threading.Thread(target=self._call, args=(name, number), name=f"{name}-{number}", daemon=True)
            for name, kind in KINDS.items()
            for number in range(kind.threads)
        ]

    def __enter__(self) -> "SoakLoad":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT_SECONDS)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how often each thing happened, by kind."""
        with self._lock:
            return {name: dict(sorted(counter.items())) for name, counter in self._counts.items()}

    def _call(self, name: str, number: int) -> None:
        kind = KINDS[name]
        seed = [self._seed, *name.encode(), number]
        going = kind.caller(self._target, np.random.default_rng(seed))
        with contextlib.closing(going):
            while not self._stop.wait(kind.pause_seconds):
                try:
                    how = next(going)
                except Exception as error:  # a fault of the server, or of this caller
                    how = f"{type(error).__name__}: {error}"
                    going = kind.caller(self._target, np.random.default_rng(seed))
                with self._lock:
                    self._counts[name][how] += 1
