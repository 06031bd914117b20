"""Tests for SIGHUP: new versions are loaded and bad ones refused, while calls are answered."""

import json
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from serving.client import Client
from tests.end_to_end.images import EASY, HARD
from tests.end_to_end.server_process import ServerProcess
from tests.serving import scripted_model
from tests.serving.live_server import eventually

RELEASED = Path(__file__).parents[2] / "models" / "fashion-mnist" / "3"
PAUSE_SECONDS = 0.02
"""Pause between two calls of a caller, in which the server loads a version."""
MEMORY_GROWTH = 1.2
"""Largest growth of the server's memory by reloads after the first."""


def test_sighup_loads_a_new_version_under_traffic_without_a_failed_call(
    own_models: Path, front_end: str
) -> None:
    with (
        ServerProcess(own_models, front_end=front_end, trials=True) as server,
        Client(server.address) as client,
    ):
        stop, versions = threading.Event(), ["1"]

        def ask() -> None:
            while not stop.wait(PAUSE_SECONDS):
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


def test_sighup_with_a_bad_version_logs_one_line_and_the_old_one_keeps_serving(
    own_models: Path, front_end: str
) -> None:
    with (
        ServerProcess(own_models, front_end=front_end, trials=True) as server,
        Client(server.address) as client,
    ):
        folder = scripted_model.publish(own_models, version=2)
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text[:500])
        server.send(signal.SIGHUP)
        refusal = json.loads(server.await_event("version refused"))

        assert f"{folder / 'manifest.json'}: not valid JSON" in refusal["error"]
        assert client.predict("scripted", EASY).model_version == "1"

        (folder / "manifest.json").write_text(text)
        server.send(signal.SIGHUP)
        assert eventually(lambda: client.predict("scripted", EASY).model_version == "2")


def publish_released(root: Path, version: int) -> None:
    """Replace the released model by the same model under another version."""
    aside = root / "aside"
    shutil.copytree(RELEASED, aside)
    scripted_model.edit(aside, version=version)
    aside.rename(root / "fashion-mnist" / str(version))
    shutil.rmtree(root / "fashion-mnist" / str(version - 1), ignore_errors=True)


def reloads(server: ServerProcess) -> int:
    """Return the number of finished reloads; each has closed the version before."""
    return sum('"event": "versions changed"' in line for line in server.log())


def test_reloads_do_not_leak_memory(tmp_path: Path, front_end: str) -> None:
    (tmp_path / "fashion-mnist").mkdir()
    publish_released(tmp_path, 1)
    images = np.zeros((4, 1, 28, 28), np.uint8)
    held: list[int] = []
    with (
        ServerProcess(tmp_path, front_end=front_end, trials=True) as server,
        Client(server.address) as client,
    ):
        for number in range(2, 5):
            publish_released(tmp_path, number)
            server.send(signal.SIGHUP)
            assert eventually(lambda number=number: reloads(server) == number - 1)  # type: ignore[misc]
            assert client.predict("fashion-mnist", images).model_version == str(number)
            held.append(psutil.Process(server.pid).memory_info().rss)

    assert max(held) < MEMORY_GROWTH * held[0]
