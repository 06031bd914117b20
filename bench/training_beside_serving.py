"""What callers feel of a training job beside them: latency without and with one, in the same server.

    python -m bench.training_beside_serving

One caller asks the released network at `balanced`, a row a request, through gRPC. Each round has a window
without and a window with a digits job, in turns which comes first: started over gRPC at the default
settings of [training] (half the cores, the lowest priority), measured once its second generation learns
from the first, and cancelled. Ratios are medians of the rounds' own. A p50 of 1.25 times that without a
job is what we call acceptable.
"""

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bench.serving import servers
from bench.serving.networks import load_images, prepare
from serving.api.wire import training
from serving.client import Client
from serving.client.training import OverrideValue, TrainingClient
from training.reporting.markdown import row, rule

ROUNDS = 8
WINDOW_SECONDS = 5.0
WARM_UP_SECONDS = 1.0
JOB: dict[str, OverrideValue] = {"schedule.epochs": 4, "generations.count": 200}
"""Generations of a few seconds, more of them than a window is long."""
ORDERS = ((False, True), (True, False))
ACCEPTABLE = 1.25


@dataclass(frozen=True)
class Window:
    """What the caller felt in one window."""

    p50_milliseconds: float
    p99_milliseconds: float
    requests_per_second: float

    @classmethod
    def of(cls, seconds_N: NDArray[np.float64]) -> "Window":
        """Sum up requests that followed each other, by the seconds of each."""
        p50, p99 = np.percentile(seconds_N, (50, 99)) * 1e3
        return cls(float(p50), float(p99), len(seconds_N) / float(seconds_N.sum()))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.training_beside_serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    rounds = parser.parse_args().rounds
    images_NCHW = load_images()
    with tempfile.TemporaryDirectory(prefix="offramp-bench-") as name:
        folder = Path(name)
        network = prepare("released", images_NCHW, folder)
        options = ("--enable-training", "--training-dir", folder / "jobs")
        with servers.offramp(network, folder, options=options) as server:
            pairs = measure(server, images_NCHW, rounds)
    for line in lines(pairs):
        print(line)


def measure(
    server: servers.RunningServer, images_NCHW: NDArray[np.uint8], rounds: int
) -> list[tuple[Window, Window]]:
    """Return each round's window without a job, and with one."""
    pairs = []
    with Client(server.address) as caller, TrainingClient(server.address) as trainer:
        for number in tqdm(range(rounds), unit="round"):
            window = {}
            for trains in ORDERS[number % len(ORDERS)]:
                with job(trainer) if trains else contextlib.nullcontext():
                    ask(caller, server.model, images_NCHW, WARM_UP_SECONDS)
                    window[trains] = Window.of(ask(caller, server.model, images_NCHW, WINDOW_SECONDS))
            pairs.append((window[False], window[True]))
    return pairs


@contextlib.contextmanager
def job(trainer: TrainingClient) -> Iterator[None]:
    """Run a job that trains from the first moment to the last."""
    started = trainer.start("digits", JOB)
    with contextlib.closing(trainer.watch(started.id)) as events:
        next(event for event in events if event.HasField("epoch") and event.epoch.generation > 0)
    yield
    state = trainer.job(started.id).state
    if state != training.RUNNING:
        raise SystemExit(f"the job ended before its window did: {training.JobState.Name(state)}")
    trainer.cancel(started.id)


def ask(caller: Client, model: str, images_NCHW: NDArray[np.uint8], seconds: float) -> NDArray[np.float64]:
    """Ask a row after the other for so long; gives the seconds that each took."""
    taken = []
    ends = time.perf_counter() + seconds
    for place in itertools.cycle(range(len(images_NCHW))):
        began = time.perf_counter()
        caller.predict(model, images_NCHW[place : place + 1], operating_point="balanced")
        ended = time.perf_counter()
        taken.append(ended - began)
        if ended > ends:
            break
    return np.array(taken)


def lines(pairs: list[tuple[Window, Window]]) -> Iterator[str]:
    """Yield the table: medians over the rounds, and the ratios with the middle half of the rounds."""
    figures_RWF = np.array([[astuple(window) for window in pair] for pair in pairs])
    without, beside = np.median(figures_RWF, axis=0)
    yield row(f"{len(pairs)} rounds of {WINDOW_SECONDS:g} s", "p50 ms", "p99 ms", "requests/s")
    yield rule(4)
    for name, (p50, p99, pace) in (("no job", without), ("beside a training job", beside)):
        yield row(name, f"{p50:.3f}", f"{p99:.3f}", f"{pace:,.0f}")
    ratios_FR = (figures_RWF[:, 1] / figures_RWF[:, 0]).T
    yield row("ratio, and the middle half of rounds", *(_spread(ratios_R.tolist()) for ratios_R in ratios_FR))
    yield ""
    ratio = median(ratios_FR[0].tolist())
    yield f"p50 is {ratio:.2f} times that without a job; acceptable: {ACCEPTABLE}"


def _spread(ratios: list[float]) -> str:
    low, _, high = quantiles(ratios, n=4)
    return f"{median(ratios):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
