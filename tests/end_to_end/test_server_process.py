"""The server as a process: how it starts, what it says, how it stops."""

import json
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from serving import __version__
from serving.client import Client
from serving.engine.devices import choose_device
from serving.errors import ModelNotReady, OfframpError
from tests.end_to_end.server_process import ServerProcess, run_serving
from tests.end_to_end.slow_model import publish_slow, slow_row
from tests.serving import scripted_model
from tests.serving.live_server import eventually
from tests.serving.scripted_model import row

EASY = np.stack([row(1, 5, 5, 5)])
HARD = np.stack([row(2, 0.5, 0.5, 0.5)])
CANNOT_START = 2
MAX_RESIDENT_BYTES = 300_000_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    scripted_model.publish(root)
    return root


@pytest.fixture
def own_models(tmp_path: Path) -> Path:
    """A repository that the test may change."""
    scripted_model.publish(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    """A process that all tests share, so none may stop it."""
    with ServerProcess(models) as server:
        yield server


def test_the_ready_line_says_where_and_on_what(server: ServerProcess) -> None:
    assert server.ready_line.startswith("ready grpc=127.0.0.1:")
    assert server.ready_line.endswith(" device=cpu\n")


def test_the_process_holds_no_torch_and_little_memory(server: ServerProcess) -> None:
    process = psutil.Process(server.pid)
    with Client(server.address) as client:
        client.predict("scripted", EASY)

    libraries = {Path(area.path).name for area in process.memory_maps()}

    assert not {name for name in libraries if "torch" in name}
    assert process.memory_info().rss < MAX_RESIDENT_BYTES


@pytest.mark.parametrize("host", ["::1", "::"])
def test_an_ipv6_address_is_listened_on(models: Path, host: str) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with ServerProcess(models, "--host", host) as server:
        port = server.address.rpartition(":")[2]
        with Client(f"[::1]:{port}") as client:
            assert client.predict("scripted", EASY).label_N.tolist() == [1]
        assert server.address == f"[{host}]:{port}"


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_random_bytes_on_the_port_leave_others_unaffected(server: ServerProcess) -> None:
    host, _, port = server.address.rpartition(":")
    noise = np.random.default_rng(0).bytes(4096)
    with Client(server.address) as client:
        for sent in (b"", noise, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + noise):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(sent)
            assert client.predict("scripted", EASY).label_N.tolist() == [1]


def test_half_open_connections_leave_others_unaffected(server: ServerProcess) -> None:
    host, _, port = server.address.rpartition(":")
    connections = [socket.create_connection((host, int(port)), timeout=10) for _ in range(50)]
    try:
        with Client(server.address) as client:
            assert client.predict("scripted", EASY).label_N.tolist() == [1]
    finally:
        for connection in connections:
            connection.close()


def test_callers_that_disconnect_mid_call_leave_others_unaffected(server: ServerProcess) -> None:
    requests = [np.repeat(HARD, 64, axis=0)] * 20

    def ask_and_leave(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        client = Client(server.address)
        asking = threading.Thread(target=lambda: _ignore_errors(client, images))
        asking.start()
        client.close()
        asking.join()

    with ThreadPoolExecutor(4) as leavers, Client(server.address) as client:
        leaving = [leavers.submit(ask_and_leave, images) for images in requests]
        answers = [client.predict("scripted", HARD).label_N.tolist() for _ in range(50)]
        for future in leaving:
            future.result()

    assert answers == [[2]] * 50


def _ignore_errors(client: Client, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    try:
        client.predict("scripted", images)
    except (OfframpError, ValueError, grpc.RpcError):  # closing under a call ends it in several ways
        return


def test_sigterm_at_rest_ends_with_exit_code_0(models: Path) -> None:
    with ServerProcess(models) as server:
        code, log = server.stop()

    assert code == 0
    assert [json.loads(line)["event"] for line in log][-2:] == ["draining", "stopped"]


@pytest.fixture(scope="module")
def log(models: Path) -> list[str]:
    """What a server logs that met a client's error and one of its own, and was stopped."""
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


def test_sigterm_lets_an_accepted_call_finish_and_answers_new_ones_unavailable(tmp_path: Path) -> None:
    publish_slow(tmp_path)
    slow = np.stack([slow_row(1, turns=90)])
    with (
        ServerProcess(tmp_path) as server,
        Client(server.address, timeout_seconds=60) as client,
        ThreadPoolExecutor(1) as caller,
    ):
        accepted = caller.submit(client.predict, "slow", slow)
        with Client(server.address) as other:
            assert eventually(lambda: _in_flight(server) == 1)
            server.send(signal.SIGTERM)
            server.await_event("draining")
            with pytest.raises(ModelNotReady, match="the server is draining"):
                other.predict("slow", np.stack([slow_row(1, turns=0)]))
            assert not other.healthy()
        code, _ = server.wait()

        assert accepted.result(0).label_N.tolist() == [1]
        assert code == 0


def _in_flight(server: ServerProcess) -> float:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("offramp_requests_in_flight "))


def test_sigterm_under_load_gives_answers_or_unavailable_and_nothing_else(models: Path) -> None:
    outcomes: list[str] = []
    with ServerProcess(models) as server:
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


def test_a_second_signal_forces_with_exit_code_1(tmp_path: Path) -> None:
    publish_slow(tmp_path)
    slow = np.stack([slow_row(1, turns=90)])
    with (
        ServerProcess(tmp_path) as server,
        Client(server.address, timeout_seconds=60) as client,
        ThreadPoolExecutor(1) as caller,
    ):
        call = caller.submit(client.predict, "slow", slow)
        assert eventually(lambda: _in_flight(server) == 1)
        server.send(signal.SIGTERM)
        server.await_event("draining")
        server.send(signal.SIGINT)
        code, log = server.wait()

        assert code == 1
        assert isinstance(call.exception(), OfframpError)
        assert not [line for line in log if "Traceback" in line]


def test_sighup_takes_up_a_new_version_under_traffic_without_a_failed_call(own_models: Path) -> None:
    with ServerProcess(own_models) as server, Client(server.address) as client:
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


def test_sighup_with_a_bad_version_logs_one_line_and_the_old_one_goes_on(own_models: Path) -> None:
    with ServerProcess(own_models) as server, Client(server.address) as client:
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


def test_a_process_that_also_imports_tritonclient_answers(models: Path) -> None:
    program = (
        "-c",
        "import sys, tritonclient.grpc, serving.__main__; sys.exit(serving.__main__.main(sys.argv[1:]))",
    )
    with ServerProcess(models, program=program) as server, Client(server.address) as client:
        assert client.predict("scripted", EASY).label_N.tolist() == [1]
        assert server.stop()[0] == 0


def refuses_to_start(*arguments: str) -> str:
    """Run a server that must not come up; gives its one line on stderr."""
    code, output, errors = run_serving(
        *("--grpc-port", "0", "--metrics-port", "0", "--device", "cpu"), *arguments
    )
    lines = [line for line in errors.splitlines() if not line.startswith("{")]  # but for the log
    assert (code, output, len(lines)) == (CANNOT_START, "", 1), errors
    return lines[0].removeprefix("offramp: ")


def test_a_missing_repository_stops_the_start(tmp_path: Path) -> None:
    gone = tmp_path / "gone"

    assert refuses_to_start("--model-repository", str(gone)).startswith(f"model repository {gone}: ")


def test_a_bad_manifest_stops_the_start(own_models: Path) -> None:
    manifest = own_models / "scripted" / "1" / "manifest.json"
    manifest.write_text("{")

    assert refuses_to_start("--model-repository", str(own_models)).startswith(f"{manifest}: not whole JSON: ")


def test_a_stage_that_is_no_model_stops_the_start(own_models: Path) -> None:
    folder = own_models / "scripted" / "1"
    (folder / "stage-1.onnx").write_bytes(b"noise")
    (folder / "manifest.json").write_text(scripted_model.make_manifest("scripted", 1, folder).to_json())

    line = refuses_to_start("--model-repository", str(own_models))

    assert line.startswith(f"{folder / 'stage-1.onnx'}: onnxruntime cannot load it: ")


def test_an_explicit_device_that_is_not_there_stops_the_start(models: Path) -> None:
    if choose_device("auto").name != "cpu":
        pytest.skip("a CUDA device is here")

    line = refuses_to_start("--model-repository", str(models), "--device", "cuda")

    assert line.startswith('device "cuda": expected a session to run on CUDAExecutionProvider')


@pytest.mark.parametrize(("option", "name"), [("--grpc-port", "gRPC"), ("--metrics-port", "metrics")])
def test_a_port_in_use_stops_the_start(models: Path, option: str, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        line = refuses_to_start("--model-repository", str(models), option, str(port))

    assert line.startswith(f"{name} port: cannot listen on 127.0.0.1:{port}")


def test_a_wrong_setting_stops_the_start(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "serving.toml"
    file.write_text("[engine]\nworker = 2\n")

    line = refuses_to_start("--model-repository", str(models), "--config", str(file))

    assert line.startswith(f"{file}: engine.worker: unknown key, known keys: max_batch_size, ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--grpc-port", "70000"], "expected a port, 0 to 65535, got '70000'"),
        (["--grpc-port", "-1"], "expected"),
        (["--metrics-port", "http"], "expected a port, 0 to 65535, got 'http'"),
        (["--grpc-port", "²"], "expected a port, 0 to 65535, got '²'"),
        (["--poll-seconds", "0"], "expected a positive number of seconds, got '0'"),
        (["--poll-seconds", "nan"], "expected a positive number of seconds, got 'nan'"),
        (["--device", "gpu"], "invalid choice: 'gpu'"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
    ],
)
def test_wrong_options_are_exit_code_2_with_the_reason(arguments: list[str], complaint: str) -> None:
    code, output, errors = run_serving(*arguments)

    assert (code, output) == (CANNOT_START, "")
    assert complaint in errors.splitlines()[-1]


def test_verify_says_of_each_version_whether_it_is_right(own_models: Path) -> None:
    (scripted_model.publish(own_models, version=2) / "stage-0.onnx").write_bytes(b"")

    code, output, errors = run_serving("verify", str(own_models))

    right, wrong = output.splitlines()
    assert (code, errors) == (CANNOT_START, "")
    assert right == "ok scripted/1: 3 stages"
    assert wrong.startswith("WRONG scripted/2: ")
    assert "sha256: expected" in wrong


def test_verify_of_a_right_repository_is_exit_code_0(models: Path) -> None:
    assert run_serving("verify", str(models)) == (0, "ok scripted/1: 3 stages\n", "")


def test_verify_of_no_repository_is_exit_code_2(tmp_path: Path) -> None:
    code, _, errors = run_serving("verify", str(tmp_path / "gone"))

    assert (code, errors.count("\n")) == (CANNOT_START, 1)


def test_the_version_is_printed() -> None:
    assert run_serving("--version") == (0, f"offramp {__version__}\n", "")
