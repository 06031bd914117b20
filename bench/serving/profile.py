"""Where the microseconds of one request go, in the server, while one caller asks for one row at a time.

    python -m bench.serving.profile

Starts the server on each front end with a clock around each step of a request, puts perf_analyzer's load on
it, and prints the median of each step. The clocks themselves cost about a microsecond a step.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.serving import environments, servers
from bench.serving.load import Load, measure
from bench.serving.networks import NAMES, load_images, prepare
from serving.__main__ import main as serve
from serving.api import answer_form, decoding, inference
from serving.engine import decision, version
from serving.engine.engine import Engine
from serving.engine.observation import Observation
from serving.engine.queues import StageQueues
from serving.engine.request import Request
from serving.engine.scheduler import Scheduler
from serving.frontend import loop, native
from training.reporting.markdown import row, rule

STEPS: dict[str, list[tuple[Any, str]]] = {
    "decode and check the message": [(decoding.Decoder, "decode")],
    "make the exit rule": [(inference, "exit_rule")],
    "admit the rows": [(Engine, "submit")],
    "form a batch": [(Scheduler, "next_batch")],
    "fill and run its stages": [(version, "execute")],
    "decide who leaves": [(version, "decide_batch")],
    "... of which softmax and confidence": [(decision, "read_exit")],
    "free blocks, queue survivors": [(StageQueues, "advance")],
    "encode the answer": [(answer_form.AnswerForm, "encode")],
    "send it": [(native._NativeCall, "answer"), (loop._LoopCall, "answer")],
    "record what happened, after the answer": [(Observation, "finished")],
}
WHOLE = "the whole call, from its bytes to its answer"
SEEN = "the round trip, seen by the caller"
FRONT_ENDS = ("native", "grpcio")
LOAD = Load(rows=1, concurrency=1)
WINDOW_SECONDS = 2.0

Taken = dict[str, tuple[float, float]]
"""By step: the median microseconds, and how often a request takes it."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving.profile", description=__doc__)
    parser.add_argument("--network", choices=NAMES, default="released", help="default released")
    name = parser.parse_args().network
    environments.make_load_generator()
    taken: dict[str, Taken] = {}
    with tempfile.TemporaryDirectory(prefix="offramp-bench-") as home:
        folder = Path(home)
        network = prepare(name, load_images(), folder)
        for front_end in FRONT_ENDS:
            record = folder / f"{front_end}.json"
            program = ("bench.serving.profile", "serve", record)
            with servers.offramp(network, folder, front_end, program=program) as server:
                measured = measure(server, LOAD, network.images, window_seconds=WINDOW_SECONDS)
            seen = 1e3 * measured.p50_milliseconds
            taken[front_end] = json.loads(record.read_text()) | {
                "the round trip, seen by the caller": (seen, 1)
            }
    print(row("step: median microseconds (times a request)", *FRONT_ENDS))
    print(rule(1 + len(FRONT_ENDS)))
    for step in taken[FRONT_ENDS[0]]:
        cells = [taken[front_end].get(step, (0.0, 0.0)) for front_end in FRONT_ENDS]
        print(row(step, *[f"{microseconds:.0f} ({times:.2f})" for microseconds, times in cells]))


def serve_with_clocks(record: Path, arguments: list[str]) -> int:
    """Serve until a signal, then write what each step took."""
    taken: dict[str, list[float]] = {step: [] for step in (*STEPS, WHOLE)}
    for step, places in STEPS.items():
        for owner, name in places:
            setattr(owner, name, _clocked(getattr(owner, name), taken[step]))
    close = Request.close

    def clocked_close(request: Request, result: Any) -> bool:  # noqa: ANN401 - passed on
        closed = close(request, result)
        if not request.is_shadow:
            taken[WHOLE].append(time.monotonic() - request.received_seconds)
        return closed

    Request.close = clocked_close  # type: ignore[method-assign, assignment]
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
        sys.exit(serve_with_clocks(Path(sys.argv[2]), sys.argv[3:]))
    main()
