"""Tests for refused starts: exit code 2 and one line with the reason."""

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from serving.stages.devices import choose_device
from tests.end_to_end.server_process import CANNOT_START, MODULE, run_serving
from tests.serving import scripted_model

WITHOUT_NATIVE = """
import sys
sys.modules["pygrpc_native"] = None
from serving.commands.program import main
sys.exit(main())
"""
"""Run the server without pygrpc-native."""


def refuses_to_start(*arguments: str, program: Sequence[str] = MODULE) -> str:
    """Run a server that must not start; return its line on stderr."""
    ports = ("--grpc-port", "0", "--metrics-port", "0", "--device", "cpu")
    code, output, errors = run_serving(*ports, *arguments, program=program)
    lines = [line for line in errors.splitlines() if not line.startswith("{")]  # except the log
    assert (code, output, len(lines)) == (CANNOT_START, "", 1), errors
    return lines[0].removeprefix("offramp: error: ")


def test_a_missing_repository_stops_the_start(tmp_path: Path) -> None:
    gone = tmp_path / "gone"

    assert refuses_to_start("--model-repository", str(gone)).startswith(f"model repository {gone}: ")


def test_a_bad_manifest_stops_the_start(own_models: Path) -> None:
    manifest = own_models / "scripted" / "1" / "manifest.json"
    manifest.write_text("{")

    assert refuses_to_start("--model-repository", str(own_models)).startswith(f"{manifest}: not valid JSON: ")


def test_a_stage_that_is_not_a_model_stops_the_start(own_models: Path) -> None:
    folder = own_models / "scripted" / "1"
    (folder / "stage-1.onnx").write_bytes(b"noise")
    (folder / "manifest.json").write_text(scripted_model.make_manifest("scripted", 1, folder).to_json())

    line = refuses_to_start("--model-repository", str(own_models))

    assert line.startswith(f"{folder / 'stage-1.onnx'}: onnxruntime cannot load it: ")


def test_an_explicit_device_that_does_not_exist_stops_the_start(models: Path) -> None:
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


def test_a_native_front_end_that_is_not_installed_stops_the_start(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "serving.toml"
    file.write_text('[server]\nfront_end = "native"\n')
    arguments = ("--model-repository", str(models), "--config", str(file))

    line = refuses_to_start(*arguments, program=("-c", WITHOUT_NATIVE))

    assert line == 'server.front_end "native": expected the package pygrpc-native, which is not installed'
