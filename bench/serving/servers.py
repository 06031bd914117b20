"""Starts each server of the comparison as a process of its own, on free loopback ports.

Every one serves the same network on the same onnxruntime; Offramp in stages, the others whole.
"""

import contextlib
import json
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

from bench.serving.environments import MLSERVER, ROOT, TRITON, triton_backends, triton_folder
from bench.serving.networks import BenchNetwork
from bench.serving.rivals import protocol
from serving.api.wire import INFERENCE_SERVICE, inference

START_SECONDS = 120.0
MAX_BATCH_SIZE = 64
HOST = "127.0.0.1"
RIVALS = Path(__file__).parent / "rivals"


@dataclass(frozen=True)
class Instances:
    """How Triton spreads a network over the cores."""

    count: int
    intra_op_threads: int


@dataclass(frozen=True)
class RunningServer:
    """A server that runs."""

    name: str
    address: str
    model: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def offramp(
    network: BenchNetwork,
    folder: Path,
    front_end: str = "native",
    settings: str = "",
    *,
    options: Sequence[object] = (),
    program: Sequence[object] = ("serving",),
) -> Iterator[RunningServer]:
    """Start Offramp on the repository of the network's version, with settings in TOML and more options.

    program: the module to run, and what comes before the server's own options.
    """
    port = free_port()
    config = folder / f"offramp-{port}.toml"
    config.write_text(f'{settings}\n[server]\nfront_end = "{front_end}"\n')
    command = [sys.executable, "-m", *program, "--model-repository", network.version.folder.parent.parent]
    command += ["--grpc-port", port, "--metrics-port", 0, "--device", "cpu", "--config", config, *options]
    with running(f"offramp-{front_end}", network.manifest.name, port, command, folder) as server:
        yield server


@contextlib.contextmanager
def triton(network: BenchNetwork, folder: Path, instances: Instances) -> Iterator[RunningServer]:
    """Start Triton with its Python backend, dynamic batching and so many instances."""
    repository = folder / "triton"
    version = repository / protocol.MODEL / "1"
    shutil.rmtree(repository, ignore_errors=True)
    version.mkdir(parents=True)
    shutil.copy(RIVALS / "triton_model.py", version / "model.py")
    shutil.copy(network.full_graph, version)
    (version.parent / "config.pbtxt").write_text(_triton_config(network, instances))
    port = free_port()
    command = [triton_folder() / "bin" / "tritonserver", "--model-repository", repository]
    command += ["--backend-directory", triton_backends(), "--grpc-port", port]
    command += ["--allow-http", "false", "--allow-metrics", "false"]
    variables = os.environ | {
        "PATH": f"{TRITON.python.parent}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(TRITON.folder),
        "LD_LIBRARY_PATH": str(TRITON.packages / "nvidia_pytriton.libs"),
    }
    with running("triton", protocol.MODEL, port, command, folder, variables) as server:
        yield server


def _triton_config(network: BenchNetwork, instances: Instances) -> str:
    image = network.manifest.inputs[0]
    classes = len(network.manifest.labels)
    return f"""
name: "{protocol.MODEL}"
backend: "python"
max_batch_size: {MAX_BATCH_SIZE}
input [{{ name: "{image.name}" data_type: TYPE_{image.datatype} dims: {list(image.row_shape)} }}]
output [{{ name: "logits" data_type: TYPE_FP32 dims: [{classes}] }}]
instance_group [{{ count: {instances.count} kind: KIND_CPU }}]
parameters: {{ key: "intra_op_threads" value: {{ string_value: "{instances.intra_op_threads}" }} }}
dynamic_batching {{ }}
"""


@contextlib.contextmanager
def mlserver(network: BenchNetwork, folder: Path) -> Iterator[RunningServer]:
    """Start MLServer, in one process as its own advice for small models has it."""
    home = folder / "mlserver"
    home.mkdir(exist_ok=True)
    port = free_port()
    image = network.manifest.inputs[0]
    settings = {
        "host": HOST,
        "grpc_port": port,
        "http_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
    }
    model = {
        "name": protocol.MODEL,
        "implementation": "mlserver_launcher.FullNetwork",
        "parameters": {"uri": str(network.full_graph), "version": "1"},
        "inputs": [{"name": image.name, "datatype": image.datatype, "shape": list(image.shape)}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, len(network.manifest.labels)]}],
    }
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "model-settings.json").write_text(json.dumps(model))
    (home / "config.binpb").write_bytes(protocol.config("logits").SerializeToString())
    command = [MLSERVER.python, RIVALS / "mlserver_launcher.py", "start", home]
    with running("mlserver", protocol.MODEL, port, command, folder) as server:
        yield server


@contextlib.contextmanager
def plain(network: BenchNetwork, folder: Path) -> Iterator[RunningServer]:
    """Start the servicer that people write by hand."""
    port = free_port()
    command = [sys.executable, "-m", "bench.serving.rivals.plain", network.full_graph, port]
    with running("plain", protocol.MODEL, port, command, folder) as server:
        yield server


@contextlib.contextmanager
def stick(network: BenchNetwork, folder: Path, operating_point: str) -> Iterator[RunningServer]:
    """Start the server that does nothing but the work, at one operating point."""
    port = free_port()
    command = [sys.executable, "-m", "bench.serving.rivals.stick", network.version.folder]
    command += [operating_point, port]
    with running(f"stick-{operating_point}", network.manifest.name, port, command, folder) as server:
        yield server


@contextlib.contextmanager
def running(
    name: str,
    model: str,
    port: int,
    command: list[object],
    folder: Path,
    variables: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """Start a command that serves on a port, wait until it is ready, and stop it in the end."""
    log = folder / f"{name}-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, env=variables, stdout=output, stderr=output
        )
    try:
        _await_ready(name, model, f"{HOST}:{port}", process, log)
        yield RunningServer(name, f"{HOST}:{port}", model, process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(name: str, model: str, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
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
    raise SystemExit(f"{name} did not become ready in {START_SECONDS:.0f} s: {' | '.join(last)}")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
