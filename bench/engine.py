"""What the engine costs beside its stages, in process and without gRPC.

    python -m bench.engine

On the untrained `wide` network (40 M multiply-adds): a row alone, and requests of 8 rows that keep every
worker busy. Overhead is what is left of the time when the stages' own, timed bare in the same round, are
taken away. Rounds alternate; every figure is the median over them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from bench.closed_loop import closed_loop_seconds
from bench.serving.networks import load_images, prepare
from bench.table import row, rule
from serving.stages.devices import CPU
from serving.engine.engine import Engine, EngineLimits
from serving.exits.policy import decide, read_exit
from serving.exits.options import ExitOptions, exit_rule
from serving.metrics import Metrics
from serving.repository.repository import PublishedVersion

CLASSES = 10
REQUEST_ROWS = 8
OUTSTANDING = 16
REQUESTS = 300
WORKERS = 2


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default 7")
    parser.add_argument("--network", default="wide", help="default wide")
    options = parser.parse_args()
    images_NCHW = load_images()
    with tempfile.TemporaryDirectory() as folder:
        version = prepare(options.network, images_NCHW, Path(folder)).version
        rows: dict[str, Callable[[], tuple[float, float]]] = {
            "a row alone that leaves at exit 0": lambda: _lone_row(version, images_NCHW),
            "a row alone to full depth": lambda: _lone_row(version, images_NCHW, max_exit=None),
            f"requests of {REQUEST_ROWS} rows, 2 workers busy, full depth": lambda: _busy(
                version, images_NCHW, "exact"
            ),
            f"requests of {REQUEST_ROWS} rows, 2 workers busy, balanced": lambda: _busy(
                version, images_NCHW, "balanced"
            ),
        }
        print(row("", "stages, microseconds", "engine beside them", "share"))
        print(rule(4))
        for name, measure in rows.items():
            pairs = [measure() for _ in range(options.rounds)]
            bare, whole = (median(pair[place] for pair in pairs) * 1e6 for place in (0, 1))
            print(row(name, f"{bare:.0f}", f"{whole - bare:.0f}", f"{(whole - bare) / bare:.1%}"))
    print()
    print(f"deciding the exits of 64 rows of {CLASSES} classes: {_decision() * 1e6:.1f} microseconds")


def _engine(version: PublishedVersion, *, workers: int, caller_seconds: float) -> Engine:
    limits = EngineLimits(
        max_batch_size=64,
        max_queue_size=1024,
        slots=4 * 64,
        workers=workers,
        patience=1,
        caller_seconds=caller_seconds,
    )
    metrics = Metrics(CollectorRegistry()).for_model("bench", 1, len(version.manifest.stages))
    return Engine(version, CPU, limits, metrics)


def _seconds(run: Callable[[], object], repeats: int) -> float:
    """Give the median seconds of a run."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return median(taken)


def _lone_row(
    version: PublishedVersion, images_NCHW: NDArray[np.uint8], max_exit: int | None = 0
) -> tuple[float, float]:
    """Give the seconds of the stages alone, and of a row through the engine."""
    engine = _engine(version, workers=1, caller_seconds=1.0)
    rule_ = exit_rule(engine.points, ExitOptions(operating_point="exact", max_exit=max_exit))
    inputs = {version.manifest.inputs[0].name: images_NCHW[:1]}
    last = rule_.max_exit

    def bare() -> None:
        engine._runner.run(0, inputs, 0)
        for stage in range(1, last + 1):
            engine._runner.run(stage, {"rows": np.zeros(1, dtype=np.int64)}, 0)

    whole = _seconds(lambda: engine.submit(inputs, rule_).result(), 400)
    alone = _seconds(bare, 400)
    engine.close()
    return alone, whole


def _busy(version: PublishedVersion, images_NCHW: NDArray[np.uint8], point: str) -> tuple[float, float]:
    """Give core seconds a request: of the stages by the engine's own clock, and of the workers in all."""
    engine = _engine(version, workers=WORKERS, caller_seconds=0.0)
    before = _stage_seconds(engine)
    seconds = closed_loop_seconds(
        engine,
        images_NCHW,
        point,
        request_rows=REQUEST_ROWS,
        requests=REQUESTS,
        outstanding=OUTSTANDING,
    )
    whole = WORKERS * seconds
    stages = _stage_seconds(engine) - before
    engine.close()
    return stages / REQUESTS, whole / REQUESTS


def _stage_seconds(engine: Engine) -> float:
    metrics = engine.accounts.metrics
    return sum(series.read()[1] for series in metrics._stage_seconds)


def _decision() -> float:
    logits_BK = np.random.default_rng(0).normal(size=(64, CLASSES)).astype(np.float32)
    threshold_B, capped_B = np.full(64, 0.9), np.zeros(64, dtype=np.bool_)
    return _seconds(
        lambda: decide(read_exit(logits_BK, 1.5).confidence_B, threshold_B, capped_B, final=False), 2000
    )


if __name__ == "__main__":
    main()
