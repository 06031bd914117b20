"""What the engine costs beside its stages, in process and without gRPC.

    python -m bench.engine

On the untrained `wide` network (40 M multiply-adds): a row alone, and requests of 8 rows that keep every
thread busy. Overhead is what is left of the time when the stages' own, timed bare in the same round, are
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

from bench.closed_loop import closed_loop_seconds, engine_of, make_metrics
from bench.serving.networks import load_images, prepare
from serving.exits.options import RequestOptions, exit_rule
from serving.exits.policy import decide, read_exit
from serving.repository.repository import PublishedVersion
from serving.stages.blocks import open_stages
from serving.stages.devices import CPU
from training.reporting.markdown import row, rule

CLASSES = 10
REQUEST_ROWS = 8
OUTSTANDING = 16
REQUESTS = 300
PERMITS = 2


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default 7")
    parser.add_argument("--network", default="wide", help="default wide")
    options = parser.parse_args()
    images_NCHW = load_images()
    with tempfile.TemporaryDirectory() as folder:
        version = prepare(options.network, images_NCHW, Path(folder)).version
        busy = f"requests of {REQUEST_ROWS} rows, {PERMITS} batches at once"
        rows: dict[str, Callable[[], tuple[float, float]]] = {
            "a row alone that leaves at exit 0": lambda: _lone_row(version, images_NCHW, 0),
            "a row alone to full depth": lambda: _lone_row(version, images_NCHW, None),
            f"{busy}, full depth": lambda: _busy(version, images_NCHW, "exact"),
            f"{busy}, balanced": lambda: _busy(version, images_NCHW, "balanced"),
        }
        print(row("", "stages, microseconds", "engine beside them", "share"))
        print(rule(4))
        for name, measure in rows.items():
            pairs = [measure() for _ in range(options.rounds)]
            bare, whole = (median(pair[place] for pair in pairs) * 1e6 for place in (0, 1))
            print(row(name, f"{bare:.0f}", f"{whole - bare:.0f}", f"{(whole - bare) / bare:.1%}"))
    print()
    print(f"deciding the exits of 64 rows of {CLASSES} classes: {_decision() * 1e6:.1f} microseconds")


def _seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a run."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return median(taken)


def _lone_row(
    published: PublishedVersion, images_NCHW: NDArray[np.uint8], max_exit: int | None
) -> tuple[float, float]:
    """Return the seconds of the stages alone, and of a row through the engine."""
    inputs = {published.manifest.inputs[0].name: images_NCHW[:1]}
    stages = len(published.manifest.stages)
    _, _, blocks = open_stages(published, CPU, max_batch_size=1, blocks=[1] * stages, idle_threads=1)
    with engine_of(published, 1, make_metrics(published)) as (engine, version):
        rule_ = exit_rule(version.points, RequestOptions(operating_point="exact", max_exit=max_exit))

        def bare() -> None:
            for (block,) in blocks[: rule_.max_exit + 1]:
                block.run(1)

        whole = _seconds(lambda: engine.infer(version, inputs, rule_).result(), 400)
        return _seconds(bare, 400), whole


def _busy(published: PublishedVersion, images_NCHW: NDArray[np.uint8], point: str) -> tuple[float, float]:
    """Return core seconds a request: of the stages by the engine's own clock, and of all threads."""
    metrics = make_metrics(published)
    with engine_of(published, PERMITS, metrics) as (engine, version):
        seconds = closed_loop_seconds(
            engine,
            version,
            images_NCHW,
            point,
            request_rows=REQUEST_ROWS,
            requests=REQUESTS,
            outstanding=OUTSTANDING,
        )
        stages = sum(series.read()[1] for series in metrics._stage_seconds)
    return stages / REQUESTS, PERMITS * seconds / REQUESTS


def _decision() -> float:
    logits_BK = np.random.default_rng(0).normal(size=(64, CLASSES)).astype(np.float32)
    return _seconds(lambda: decide(read_exit(logits_BK, 1.5).confidence_B, 0.9, False, final=False), 2000)


if __name__ == "__main__":
    main()
