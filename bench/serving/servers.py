"""The servers of the comparison, each in a process of its own on a free loopback port."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.publication import ROOT
from bench.serving.environments import TRITON_BACKENDS, TRITON_FOLDER, TRITON_VARIABLES
from bench.serving.networks import IMAGE, MAX_BATCH_SIZE, BenchNetwork
from serving.api.wire import INFERENCE_SERVICE, inference

START_SECONDS, STOP_SECONDS = 120.0, 20.0
HOST = "127.0.0.1"
TRITON_MODEL = "full"


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready."""

    name: str
    address: str
    model: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def offramp(
    model: str,
    folder: Path,
    *,
    front_end: str = "native",
    settings: str = "",
    options: Sequence[object] = (),
    program: Sequence[object] = ("serving",),
    checkout: Path = ROOT,
) -> Iterator[RunningServer]:
    """Start Offramp on the repository `folder`/models.

    settings: lines of TOML with dotted keys. options: additional options of the command line. program: the
    module to run, and arguments before those of the server. checkout: the code to run.
    """
    port = free_port()
    config = folder / f"offramp-{port}.toml"
    config.write_text(f'server.front_end = "{front_end}"\n{settings}\n')
    command = [sys.executable, "-m", *program, "--model-repository", folder / "models", "--config", config]
    command += ["--grpc-port", port, "--metrics-port", 0, "--device", "cpu", *options]
    with running(f"offramp-{front_end}", model, port, command, folder, checkout=checkout) as server:
        yield server


@contextlib.contextmanager
def triton(network: BenchNetwork, folder: Path) -> Iterator[RunningServer]:
    """Start Triton with its Python backend, dynamic batching and one instance, the fastest on two cores."""
    repository = folder / "triton"
    version = repository / TRITON_MODEL / "1"
    shutil.rmtree(repository, ignore_errors=True)
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "triton_model.py", version / "model.py")
    shutil.copy(network.full_graph, version)
    (version.parent / "config.pbtxt").write_text(_triton_config(len(network.version.manifest.labels)))
    port = free_port()
    command = [TRITON_FOLDER / "bin" / "tritonserver", "--model-repository", repository]
    command += ["--backend-directory", TRITON_BACKENDS, "--grpc-port", port]
    command += ["--allow-http", "false", "--allow-metrics", "false"]
    with running("triton", TRITON_MODEL, port, command, folder, TRITON_VARIABLES) as server:
        yield server


def _triton_config(classes: int) -> str:
    return f"""
name: "{TRITON_MODEL}"
backend: "python"
max_batch_size: {MAX_BATCH_SIZE}
input [{{ name: "{IMAGE.name}" data_type: TYPE_{IMAGE.datatype} dims: {list(IMAGE.row_shape)} }}]
output [{{ name: "logits" data_type: TYPE_FP32 dims: [{classes}] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
parameters: {{ key: "intra_op_threads" value: {{ string_value: "{len(os.sched_getaffinity(0))}" }} }}
dynamic_batching {{ }}
"""


@contextlib.contextmanager
def running(
    name: str,
    model: str,
    port: int,
    command: Sequence[object],
    folder: Path,
    variables: Mapping[str, str] | None = None,
    checkout: Path = ROOT,
) -> Iterator[RunningServer]:
    """Start a command that serves on a port, wait until the model is ready, and stop it at the end."""
    log, environment = folder / f"{name}-{port}.log", os.environ | (variables or {})
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=checkout, env=environment, stdout=output, stderr=output
        )
    try:
        _wait_ready(name, model, f"{HOST}:{port}", process, log)
        yield RunningServer(name, f"{HOST}:{port}", model, process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(name: str, model: str, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(address) as channel:
        ready = channel.unary_unary(
            f"/{INFERENCE_SERVICE}/ModelReady",
            request_serializer=inference.ModelReadyRequest.SerializeToString,
            response_deserializer=inference.ModelReadyResponse.FromString,
        )
        while time.monotonic() < ends and process.poll() is None:
            with contextlib.suppress(grpc.RpcError):
                if ready(inference.ModelReadyRequest(name=model), timeout=2).ready:
                    return
            time.sleep(0.1)
    last = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise SystemExit(f"{name} was not ready within {START_SECONDS:.0f} s: {' | '.join(last)}")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
