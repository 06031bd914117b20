"""The stop by signals: the outcomes of calls, and the exit code."""

import json
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.api.tensors import decode_outputs
from serving.api.wire import INFERENCE_SERVICE, inference
from serving.client import Client
from serving.errors import ModelNotReady, OfframpError
from tests.end_to_end.images import HARD
from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.slow_model import publish_slow, slow_row
from tests.serving.live_server import eventually


def test_sigterm_at_rest_ends_with_exit_code_0(models: Path, front_end: str) -> None:
    with ServerProcess(models, front_end=front_end) as server:
        code, log = server.stop()

    assert code == 0
    assert [json.loads(line)["event"] for line in log][-2:] == ["draining", "stopped"]


def test_sigterm_lets_an_accepted_call_finish_and_answers_new_ones_unavailable(
    tmp_path: Path, front_end: str
) -> None:
    publish_slow(tmp_path / "models")
    slow = np.stack([slow_row(1, turns=90)])
    with (
        ServerProcess(tmp_path / "models", front_end=front_end) as server,
        Client(server.address, timeout_seconds=60) as client,
        ThreadPoolExecutor(1) as caller,
    ):
        accepted = caller.submit(client.predict, "slow", slow)
        with Client(server.address) as other:
            assert eventually(lambda: server.metric("offramp_requests_in_flight") == 1)
            server.send(signal.SIGTERM)
            server.await_event("draining")
            with pytest.raises(ModelNotReady, match="the server is draining"):
                other.predict("slow", np.stack([slow_row(1, turns=0)]))
            assert not other.healthy()
        code, _ = server.wait()

        assert accepted.result(0).label_N.tolist() == [1]
        assert code == 0


CALLERS = 16
OUTSTANDING = 16
"""Concurrent calls of one caller."""
JOIN_SECONDS = 60.0
"""Longest wait for a caller after the server's end; equal to the timeout of its calls."""
DRAINING = "UNAVAILABLE: the server is draining: another replica may answer"


def drain_while(
    server: ServerProcess, asks: Sequence[Callable[[], object]], is_busy: Callable[[], bool]
) -> tuple[int, list[str]]:
    """Run each function in a thread, drain the server once it is busy, and wait for the threads.

    Returns the exit code and the log.
    """
    threads = [threading.Thread(target=ask, daemon=True) for ask in asks]
    for thread in threads:
        thread.start()
    assert eventually(is_busy)
    code, log = server.stop()
    for thread in threads:
        thread.join(JOIN_SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a call has no outcome"
    return code, log


class Caller:
    """Makes many concurrent calls on a separate connection."""

    def __init__(self, server: ServerProcess, model: str, images: NDArray[np.uint8]) -> None:
        self._server = server
        # The option gives each channel its own connection; otherwise grpcio shares one among equal channels.
        self._channel = grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
        self._call = self._channel.unary_unary(
            f"/{INFERENCE_SERVICE}/ModelInfer", response_deserializer=inference.ModelInferResponse.FromString
        )
        request = inference.ModelInferRequest(model_name=model, raw_input_contents=[images.tobytes()])
        request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
        self._wire = request.SerializeToString()
        self.outcomes: list[str] = []
        """The labels of an answer, or the status and its text."""

    def ask(self) -> list[str]:
        """Make OUTSTANDING concurrent calls; return and keep their outcomes."""
        calls = [self._call.future(self._wire, timeout=JOIN_SECONDS) for _ in range(OUTSTANDING)]
        outcomes = [outcome_of(call) for call in calls]
        self.outcomes += outcomes
        return outcomes

    def ask_until(self, text: str) -> None:
        """Repeat `ask` until an outcome contains a text, or the server has ended."""
        with self._channel:
            while not any(text in outcome for outcome in self.ask()) and not self._server.ended:
                pass


def outcome_of(call: Any) -> str:  # noqa: ANN401 - grpc has no types
    error = call.exception()
    if error is None:
        return str(decode_outputs(call.result())["label"].tolist())
    return f"{error.code().name}: {error.details()}"


def all_are_busy(callers: Sequence[Caller]) -> bool:
    return all(len(caller.outcomes) >= 2 * OUTSTANDING for caller in callers)


def test_sigterm_under_load_gives_answers_or_unavailable_and_nothing_else(
    models: Path, front_end: str
) -> None:
    outcomes: list[str] = []

    def ask() -> None:
        with Client(server.address) as client:
            while True:
                try:
                    outcomes.append(str(client.predict("scripted", HARD).label_N.tolist()))
                except OfframpError as error:
                    outcomes.append("UNAVAILABLE" if isinstance(error, ModelNotReady) else str(error))
                    return

    with ServerProcess(models, front_end=front_end) as server:
        code, _ = drain_while(server, [ask] * 8, lambda: len(outcomes) > 100)

    assert code == 0
    assert set(outcomes) == {"[2]", "UNAVAILABLE"}


def test_sigterm_with_hundreds_of_calls_under_way_loses_none_of_them(models: Path, front_end: str) -> None:
    with ServerProcess(models, front_end=front_end) as server:
        callers = [Caller(server, "scripted", HARD) for _ in range(CALLERS)]
        asks = [partial(caller.ask_until, "UNAVAILABLE") for caller in callers]
        code, _ = drain_while(server, asks, lambda: all_are_busy(callers))

    assert code == 0
    assert {outcome for caller in callers for outcome in caller.outcomes} == {"[2]", DRAINING}


def test_calls_that_come_until_the_end_of_a_drain_are_unavailable_and_never_cancelled(
    models: Path, front_end: str
) -> None:
    with ServerProcess(models, front_end=front_end) as server:
        callers = [Caller(server, "scripted", HARD) for _ in range(CALLERS)]
        asks = [partial(caller.ask_until, "ailed to connect") for caller in callers]
        code, log = drain_while(server, asks, lambda: all_are_busy(callers))

    outcomes = {outcome.partition(":")[0] for caller in callers for outcome in caller.outcomes}
    assert code == 0
    assert outcomes == {"[2]", "UNAVAILABLE"}
    assert not [line for line in log if '"level": "error"' in line]


def admitted(server: ServerProcess) -> float:
    """Return the number of calls admitted so far."""
    ended = server.metric("offramp_requests_total", outcome="ok")
    return ended + server.metric("offramp_requests_in_flight")


def test_answers_that_end_the_drain_are_not_lost(tmp_path: Path, front_end: str) -> None:
    publish_slow(tmp_path / "models")
    slow = np.stack([slow_row(1, turns=80)])  # two batches take longer than UNAVAILABLE_SECONDS
    config = {"engine": {"max_batch_size": 128, "workers": 1}}
    with ServerProcess(tmp_path / "models", front_end=front_end, config=config) as server:
        callers = [Caller(server, "slow", slow) for _ in range(8)]
        asks = [caller.ask for caller in callers]
        code, _ = drain_while(server, asks, lambda: admitted(server) == 8 * OUTSTANDING)

    assert code == 0
    assert [outcome for caller in callers for outcome in caller.outcomes] == ["[1]"] * (8 * OUTSTANDING)


def test_a_second_signal_forces_with_exit_code_1(tmp_path: Path, front_end: str) -> None:
    publish_slow(tmp_path / "models")
    slow = np.stack([slow_row(1, turns=90)])
    with (
        ServerProcess(tmp_path / "models", front_end=front_end) as server,
        Client(server.address, timeout_seconds=60) as client,
        ThreadPoolExecutor(1) as caller,
    ):
        call = caller.submit(client.predict, "slow", slow)
        assert eventually(lambda: server.metric("offramp_requests_in_flight") == 1)
        server.send(signal.SIGTERM)
        server.await_event("draining")
        server.send(signal.SIGINT)
        code, log = server.wait()

        assert code == 1
        assert isinstance(call.exception(), OfframpError)
        assert not [line for line in log if "Traceback" in line]
