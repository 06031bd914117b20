"""Where the microseconds of one request go, in the server, while one caller asks for one row at a time.

    python -m bench.serving.profile

Starts the server with a clock around each step of a request, puts perf_analyzer's load on it, and prints
the median of each step. The clocks themselves cost about a microsecond a step.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.serving import environments, servers
from bench.serving.load import Load, measure
from bench.serving.networks import NAMES, load_images, prepare
from bench.table import row, rule
from serving.__main__ import main as serve
from serving.api import inference_call, interceptors, open_inference
from serving.engine import decision, engine
from serving.engine.accounts import Accounts
from serving.engine.batch_run import BatchRun
from serving.engine.scheduler import Scheduler

STEPS: dict[str, tuple[Any, str]] = {
    "parse the message": (interceptors, "parse"),
    "read which outputs are wanted": (inference_call, "requested_outputs"),
    "check the tensors, view their bytes": (inference_call, "decode_inputs"),
    "make the exit rule": (inference_call, "exit_rule"),
    "admit the rows": (engine.Engine, "enter"),
    "form a batch": (Scheduler, "next_batch"),
    "bind its inputs and outputs": (BatchRun, "__init__"),
    "run the stage": (BatchRun, "execute"),
    "softmax and confidence": (decision, "read_exit"),
    "decide who leaves": (decision, "decide"),
    "let slots go, queue survivors": (Scheduler, "advance"),
    "note the run": (Accounts, "ran"),
    "note who left": (Accounts, "left"),
    "encode the answer": (inference_call.InferenceCall, "respond"),
}
WHOLE = "the whole call, in the server"
LOAD = Load(rows=1, concurrency=1)
WINDOW_SECONDS = 2.0


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving.profile", description=__doc__)
    parser.add_argument("--network", choices=NAMES, default="released", help="default released")
    name = parser.parse_args().network
    environments.make_load_generator()
    with tempfile.TemporaryDirectory(prefix="offramp-bench-") as home:
        folder = Path(home)
        network = prepare(name, load_images(), folder)
        port, record = servers.free_port(), folder / "profile.json"
        command = [sys.executable, "-m", "bench.serving.profile", "serve", record, folder / "models", port]
        with servers.running("offramp", network.manifest.name, port, command, folder) as server:
            measured = measure(server, LOAD, network.images, window_seconds=WINDOW_SECONDS)
        with servers.echo(folder) as server:
            echo = measure(server, LOAD, network.images, window_seconds=WINDOW_SECONDS)
        taken = json.loads(record.read_text())
    print(row("step", "median, microseconds", "a request"))
    print(rule(3))
    for step, (microseconds, times) in taken.items():
        print(row(step, f"{microseconds:.0f}", f"{times:.2f}"))
    print(row("an echo's round trip, seen by the caller", f"{1e3 * echo.p50_milliseconds:.0f}", ""))
    print(row("the round trip, seen by the caller", f"{1e3 * measured.p50_milliseconds:.0f}", ""))


def serve_with_clocks(record: Path, arguments: list[str]) -> int:
    """Serve until a signal, then write each step's median microseconds and how often a request takes it."""
    taken: dict[str, list[float]] = defaultdict(list)
    for step, (owner, name) in STEPS.items():
        setattr(owner, name, _clocked(getattr(owner, name), taken[step]))
    infer = open_inference.OpenInference._infer

    async def clocked_infer(*given: Any, **named: Any) -> bytes:  # noqa: ANN401 - passed on
        started = time.perf_counter()
        answer = await infer(*given, **named)
        taken[WHOLE].append(time.perf_counter() - started)
        return answer

    open_inference.OpenInference._infer = clocked_infer  # type: ignore[method-assign]
    code = serve(arguments)
    requests = len(taken[WHOLE])
    record.write_text(
        json.dumps({step: (1e6 * median(times), len(times) / requests) for step, times in taken.items()})
    )
    return code


def _clocked(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - passed on
        started = time.perf_counter()
        result = function(*given, **named)
        times.append(time.perf_counter() - started)
        return result

    return call


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        models, port = sys.argv[3:5]
        arguments = [
            "--model-repository",
            models,
            "--grpc-port",
            port,
            "--metrics-port",
            "0",
            "--device",
            "cpu",
        ]
        sys.exit(serve_with_clocks(Path(sys.argv[2]), arguments))
    main()
