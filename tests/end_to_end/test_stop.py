"""The stop by signals: what is still answered, and the exit code."""

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def test_sigterm_under_load_gives_answers_or_unavailable_and_nothing_else(
    models: Path, front_end: str
) -> None:
    outcomes: list[str] = []
    with ServerProcess(models, front_end=front_end) as server:
        stop = threading.Event()

        def ask() -> None:
            with Client(server.address) as client:
                while not stop.is_set():
                    try:
                        outcomes.append(str(client.predict("scripted", HARD).label_N.tolist()))
                    except ModelNotReady:
                        outcomes.append("UNAVAILABLE")
                        return
                    except OfframpError as error:
                        outcomes.append(str(error))
                        return

        callers = [threading.Thread(target=ask) for _ in range(8)]
        for caller in callers:
            caller.start()
        assert eventually(lambda: len(outcomes) > 100)
        code, _ = server.stop()
        stop.set()
        for caller in callers:
            caller.join()

    assert code == 0
    assert set(outcomes) == {"[2]", "UNAVAILABLE"}


CALLERS = 16
OUTSTANDING = 16
"""Calls that a caller has under way at once."""


class Caller:
    """Has many calls under way on a connection of its own, until the first that is not answered."""

    def __init__(self, address: str, model: str, images: NDArray[np.uint8]) -> None:
        # Of its own: grpcio has equal channels share a connection otherwise.
        self._channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._call = self._channel.unary_unary(
            f"/{INFERENCE_SERVICE}/ModelInfer", response_deserializer=inference.ModelInferResponse.FromString
        )
        request = inference.ModelInferRequest(model_name=model, raw_input_contents=[images.tobytes()])
        request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
        self._wire = request.SerializeToString()
        self.outcomes: list[str] = []
        """Labels that were answered, or the status and its text."""

    def ask(self, calls: int) -> None:
        """Have calls under way, and wait for each."""
        for call in [self._call.future(self._wire, timeout=60) for _ in range(calls)]:
            error = call.exception()
            if error is None:
                self.outcomes.append(str(decode_outputs(call.result())["label"].tolist()))
            else:
                self.outcomes.append(f"{error.code().name}: {error.details()}")

    def ask_until_it_cannot_connect(self) -> None:
        """Ask on and on, whatever the answer, as long as the server listens."""
        with self._channel:
            while not any("onnect" in outcome for outcome in self.outcomes):
                self.ask(OUTSTANDING)

    def ask_until_refused(self) -> None:
        """Ask on and on; the calls that were under way at the end count too."""
        with self._channel:
            while not any(outcome.startswith("UNAVAILABLE") for outcome in self.outcomes):
                self.ask(OUTSTANDING)


DRAINING = "UNAVAILABLE: the server is draining: another replica may answer"


def test_sigterm_with_hundreds_of_calls_under_way_loses_none_of_them(models: Path, front_end: str) -> None:
    with ServerProcess(models, front_end=front_end) as server:
        callers = [Caller(server.address, "scripted", HARD) for _ in range(CALLERS)]
        threads = [threading.Thread(target=caller.ask_until_refused) for caller in callers]
        for thread in threads:
            thread.start()
        assert eventually(lambda: all(len(caller.outcomes) >= 2 * OUTSTANDING for caller in callers))
        code, _ = server.stop()
        for thread in threads:
            thread.join()

    assert code == 0
    assert {outcome for caller in callers for outcome in caller.outcomes} == {"[2]", DRAINING}


def test_calls_that_come_until_the_end_of_a_drain_are_unavailable_and_never_cancelled(
    models: Path, front_end: str
) -> None:
    with ServerProcess(models, front_end=front_end) as server:
        callers = [Caller(server.address, "scripted", HARD) for _ in range(CALLERS)]
        threads = [threading.Thread(target=caller.ask_until_it_cannot_connect) for caller in callers]
        for thread in threads:
            thread.start()
        assert eventually(lambda: all(len(caller.outcomes) >= 2 * OUTSTANDING for caller in callers))
        code, log = server.stop()
        for thread in threads:
            thread.join()

    outcomes = {outcome.partition(":")[0] for caller in callers for outcome in caller.outcomes}
    assert code == 0
    assert outcomes == {"[2]", "UNAVAILABLE"}
    assert not [line for line in log if '"level": "error"' in line]


def admitted(server: ServerProcess) -> float:
    """Return how many calls were admitted so far."""
    ended = server.metric("offramp_requests_total", outcome="ok")
    return ended + server.metric("offramp_requests_in_flight")


def test_answers_that_end_the_drain_are_not_lost(tmp_path: Path, front_end: str) -> None:
    publish_slow(tmp_path / "models")
    slow = np.stack([slow_row(1, turns=250)])  # longer than new calls are still answered
    config = {"engine": {"max_batch_size": 128}}
    with ServerProcess(tmp_path / "models", front_end=front_end, config=config) as server:
        callers = [Caller(server.address, "slow", slow) for _ in range(8)]
        threads = [threading.Thread(target=caller.ask, args=(OUTSTANDING,)) for caller in callers]
        for thread in threads:
            thread.start()
        assert eventually(lambda: admitted(server) == 8 * OUTSTANDING)
        code, _ = server.stop()
        for thread in threads:
            thread.join()

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
