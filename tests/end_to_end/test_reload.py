"""SIGHUP: new versions are taken up, and bad ones are not, while calls go on."""

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serving.client import Client
from tests.end_to_end.images import EASY, HARD
from tests.end_to_end.server_process import ServerProcess
from tests.serving import scripted_model
from tests.serving.live_server import eventually


def test_sighup_takes_up_a_new_version_under_traffic_without_a_failed_call(
    own_models: Path, front_end: str
) -> None:
    with ServerProcess(own_models, front_end=front_end) as server, Client(server.address) as client:
        stop, versions = threading.Event(), ["1"]

        def ask() -> None:
            while not stop.is_set():
                versions.append(client.predict("scripted", HARD).model_version)

        with ThreadPoolExecutor(4) as callers:
            asking = [callers.submit(ask) for _ in range(4)]
            for number in range(2, 5):
                scripted_model.publish(own_models, version=number)
                server.send(signal.SIGHUP)
                assert eventually(lambda number=number: versions[-1] == str(number))  # type: ignore[misc]
            stop.set()
            assert [future.exception() for future in asking] == [None] * 4
        code, _ = server.stop()

    assert code == 0


def test_sighup_with_a_bad_version_logs_one_line_and_the_old_one_goes_on(
    own_models: Path, front_end: str
) -> None:
    with ServerProcess(own_models, front_end=front_end) as server, Client(server.address) as client:
        folder = scripted_model.publish(own_models, version=2)
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text[:500])
        server.send(signal.SIGHUP)
        refusal = json.loads(server.await_event("version refused"))

        assert f"{folder / 'manifest.json'}: not whole JSON" in refusal["error"]
        assert client.predict("scripted", EASY).model_version == "1"

        (folder / "manifest.json").write_text(text)
        server.send(signal.SIGHUP)
        assert eventually(lambda: client.predict("scripted", EASY).model_version == "2")
