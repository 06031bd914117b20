"""The stop by signals: what is still answered, and the exit code."""

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

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
