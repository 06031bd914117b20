"""Measure how long each step of a request takes, while one caller sends one row at a time.

    python -m bench.serving.profile

Starts the server on each front end with a clock around each step of a request. A clock costs about a
microsecond itself.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.serving import environments, servers
from bench.serving.load import measure
from bench.serving.networks import load_images, prepare
from bench.serving.record import Load
from serving.api import answer_form, decoding, inference
from serving.commands.program import main as serve
from serving.engine import decision, version
from serving.engine.engine import Engine
from serving.engine.observation import Observation
from serving.engine.queues import StageQueues
from serving.engine.scheduler import Scheduler
from serving.frontend import loop, native
from training.reporting.markdown import header, row

STEPS: dict[str, list[tuple[Any, str]]] = {
    "decode and check the message": [(decoding.Decoder, "decode")],
    "make the exit rule": [(inference, "exit_rule")],
    "admit the rows": [(Engine, "submit")],
    "form a batch": [(Scheduler, "next_batch")],
    "fill and run its stages": [(version, "execute")],
    "decide which rows leave": [(version, "decide_batch")],
    "... of which softmax and confidence": [(decision, "read_exit")],
    "free blocks, queue survivors": [(StageQueues, "advance")],
    "encode the answer": [(answer_form.AnswerForm, "encode")],
    "send the answer": [(native._NativeCall, "answer"), (loop._LoopCall, "answer")],
    "record the batch, after the answer": [(Observation, "finished")],
}
WINDOW_SECONDS = 2.0


def main() -> None:
    """Measure, and print the median microseconds of each step and how often a request takes it."""
    environments.make_load_generator()
    columns: dict[str, dict[str, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="offramp-bench-") as name:
        folder = Path(name)
        network = prepare("released", load_images(), folder)
        for front_end in ("native", "grpcio"):
            record, model = folder / f"{front_end}.json", network.model
            program = ("bench.serving.profile", record)
            with servers.offramp(model, folder, front_end=front_end, program=program) as server:
                result = measure(server, Load(1, 1), network.images, WINDOW_SECONDS)
            columns[front_end] = json.loads(record.read_text())
            columns[front_end]["the round trip, seen by the caller"] = (1e3 * result.p50_milliseconds, 1.0)
    print(header("step: median microseconds (times a request)", *columns))
    for step in columns["native"]:
        cells = [column[step] for column in columns.values()]
        print(row(step, *[f"{microseconds:.0f} ({times:.2f})" for microseconds, times in cells]))


def serve_with_clocks(record: Path, arguments: list[str]) -> int:
    """Serve until a signal, then write how long each step took."""
    seconds: dict[str, list[float]] = {step: [] for step in STEPS}
    for step, places in STEPS.items():
        for owner, name in places:
            _add_clock(owner, name, seconds[step])
    code = serve(arguments)
    requests = len(seconds["encode the answer"])
    steps = {step: (1e6 * median(times), len(times) / requests) for step, times in seconds.items()}
    record.write_text(json.dumps(steps))
    return code


def _add_clock(owner: Any, name: str, seconds: list[float]) -> None:  # noqa: ANN401 - a class or a module
    function = getattr(owner, name)

    def clocked(*positional: Any, **named: Any) -> Any:  # noqa: ANN401 - passed on
        started = time.perf_counter()
        result = function(*positional, **named)
        seconds.append(time.perf_counter() - started)
        return result

    setattr(owner, name, clocked)


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(serve_with_clocks(Path(sys.argv[1]), sys.argv[2:]))
    main()
