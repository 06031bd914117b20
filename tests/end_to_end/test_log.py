"""Tests for the log: its lines, and that it never delays or fails a call."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.api.wire import INFERENCE_SERVICE, inference
from serving.client import Client
from serving.errors import ModelNotFound, OfframpError
from serving.lifecycle.logs import BURST_LINES, LINES_PER_SECOND
from tests.end_to_end.images import EASY
from tests.end_to_end.server_process import CANNOT_START, MODULE, START_SECONDS, ServerProcess
from tests.serving import scripted_model
from tests.serving.live_server import eventually
from tests.serving.scripted_model import row


@pytest.fixture(scope="module")
def log(models: Path) -> list[str]:
    """Return the log of a server with a client error and a server error."""
    with ServerProcess(models) as server, Client(server.address) as client:
        with pytest.raises(OfframpError):
            client.predict("other", EASY)
        with pytest.raises(OfframpError):
            client.predict("scripted", np.stack([row(1, 0, 0, 0, fates=(scripted_model.RAISES, 0))]))
        return server.stop()[1]


def test_every_log_line_is_json_with_level_and_time(log: list[str]) -> None:
    entries = [json.loads(line) for line in log]

    assert all({"event", "level", "timestamp"} <= set(entry) for entry in entries)


def test_a_client_error_is_a_line_without_a_traceback_and_a_server_error_has_one(log: list[str]) -> None:
    entries = {entry["event"]: entry for entry in map(json.loads, log)}

    assert "exception" not in entries["call refused"]
    assert "Gather" in json.dumps(entries["stage failed"]["exception"])


CALLS_AT_ONCE = 50
FULL_DISK = Path("/dev/full")


def request(model: str, images: NDArray[np.uint8] = EASY) -> bytes:
    """Return an encoded request."""
    message = inference.ModelInferRequest(model_name=model, raw_input_contents=[images.tobytes()])
    message.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    return message.SerializeToString()


def call_unknown_model(server: ServerProcess, calls: int) -> Counter[str]:
    """Call an unknown model this many times; return the number of each status."""
    statuses: Counter[str] = Counter()
    with grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary(f"/{INFERENCE_SERVICE}/ModelInfer")
        for _ in range(calls // CALLS_AT_ONCE):
            waiting = [infer.future(request("unknown"), timeout=20) for _ in range(CALLS_AT_ONCE)]
            statuses.update(call.exception().code().name for call in waiting)
            if "DEADLINE_EXCEEDED" in statuses:
                break
    return statuses


def stream(server: ServerProcess, *models: str) -> list[str]:
    """Send a request for each model in one stream; return the errors, "" for none."""
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(
            f"/{INFERENCE_SERVICE}/ModelStreamInfer",
            response_deserializer=inference.ModelStreamInferResponse.FromString,
        )
        return [each.error_message for each in call(map(request, models), timeout=20)]


@pytest.fixture
def unread_pipe() -> Iterator[int]:
    """Yield the write end of a pipe that nobody reads, with room for a few lines."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    os.read(reader, 4096)
    yield writer
    os.close(reader)
    os.close(writer)


def test_an_unread_log_pipe_delays_neither_calls_nor_the_stop(
    models: Path, front_end: str, unread_pipe: int
) -> None:
    with ServerProcess(models, front_end=front_end, stderr=unread_pipe) as server:
        assert call_unknown_model(server, 3000) == {"NOT_FOUND": 3000}
        with Client(server.address) as client:
            assert client.predict("scripted", EASY).label_N.tolist() == [1]

        assert server.stop()[0] == 0


@pytest.fixture
def full_disk() -> Iterator[int]:
    if not FULL_DISK.exists():
        pytest.skip(f"there is no {FULL_DISK}")
    descriptor = os.open(FULL_DISK, os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


def test_a_full_log_disk_fails_no_call_and_its_lines_are_counted(
    models: Path, front_end: str, full_disk: int
) -> None:
    with ServerProcess(models, front_end=front_end, stderr=full_disk) as server:
        before = server.metric("offramp_log_lines_dropped_total")

        assert call_unknown_model(server, CALLS_AT_ONCE) == {"NOT_FOUND": CALLS_AT_ONCE}

        refused, answered = stream(server, "unknown", "scripted")
        assert "unknown" in refused
        assert answered == ""
        with Client(server.address) as client:
            assert client.predict("scripted", EASY).label_N.tolist() == [1]
        assert eventually(
            lambda: server.metric("offramp_log_lines_dropped_total") == before + CALLS_AT_ONCE + 1
        )
        assert server.stop()[0] == 0


def test_a_refused_start_on_a_full_log_disk_keeps_its_exit_code(tmp_path: Path, full_disk: int) -> None:
    command = [sys.executable, *MODULE, "--model-repository", str(tmp_path / "gone"), "--device", "cpu"]

    finished = subprocess.run(command, stderr=full_disk, timeout=START_SECONDS)

    assert finished.returncode == CANNOT_START


def test_log_lines_of_refused_calls_are_limited_and_counted(models: Path, front_end: str) -> None:
    begun = time.monotonic()
    with ServerProcess(models, front_end=front_end) as server, Client(server.address) as client:
        calls = sum(call_unknown_model(server, 2000).values())

        def refused_lines() -> list[dict[str, int]]:
            entries = [json.loads(line) for line in server.log() if line.endswith("}")]
            return [entry for entry in entries if entry["event"] == "call refused"]

        def each_is_accounted_for() -> bool:
            """Call once more: a written line has the number of suppressed lines before it."""
            nonlocal calls
            with pytest.raises(ModelNotFound):
                client.predict("unknown", EASY)
            calls += 1
            lines = refused_lines()
            return len(lines) + sum(line.get("suppressed", 0) for line in lines) == calls

        assert eventually(each_is_accounted_for)
        assert len(refused_lines()) <= BURST_LINES + LINES_PER_SECOND * (time.monotonic() - begun)
