"""The scheduler at other costs: where it pays to put survivors of several batches together.

    python -m bench.simulation

Drives the real scheduler by a clock of its own, with a batch costing `launch + rows x row` seconds a
stage: on a GPU the launch is most of it, on a CPU next to nothing. Beside it, the same arrivals where
the survivors of a batch stay among themselves. The CPU case is checked against the engine, measured
here with the same requests.
"""

import argparse
import heapq
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from prometheus_client import CollectorRegistry

from bench.closed_loop import closed_loop_seconds
from bench.serving.networks import load_images, prepare
from bench.table import row, rule
from serving.stages.costs import StageCosts
from serving.stages.devices import CPU
from serving.engine.engine import Engine, EngineLimits
from serving.exits.policy import ExitRule
from serving.engine.request import Batch, FutureReply, Request
from serving.engine.scheduler import Scheduler
from serving.metrics import Metrics

MAX_BATCH_SIZE = 64
SIZES = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.60, 0.20, 0.12, 0.08)
"""What leaves at each exit, as on the bench's untrained networks."""
ROW_SECONDS = 10e-6
LAUNCHES_IN_ROWS = (0, 1, 4, 16, 64)
"""What a launch costs, in rows."""
ROWS = 20_000


@dataclass
class Simulation:
    """A closed loop of callers with one row each, on a device that runs so many batches at once."""

    costs: StageCosts
    outstanding: int
    at_once: int
    shares: Sequence[float]
    merges: bool = True
    """Whether survivors of different batches share one."""
    now: float = 0.0
    answered: int = 0
    _running: list[tuple[float, int, Batch]] = field(default_factory=list)
    _seconds_waited: list[float] = field(default_factory=list)

    def rows_per_second(self, rows: int) -> float:
        """Run until so many rows are answered."""
        stages = len(self.shares)
        exit_of: dict[int, int] = {}
        depth = _depths(self.shares)
        scheduler = Scheduler(
            self.costs,
            stages=stages,
            max_rows=MAX_BATCH_SIZE,
            slots=2 * self.at_once * MAX_BATCH_SIZE + self.outstanding,
            patience=1,
        )
        rule_ = ExitRule((0.5,) * (stages - 1), stages - 1)

        def admit() -> None:
            request = Request({}, 1, rule_, float("inf"), FutureReply(), admitted_seconds=self.now)
            exit_of[id(request)] = next(depth)
            scheduler.admit(request)

        for _ in range(self.outstanding):
            admit()
        number = 0
        while self.answered < rows:
            while len(self._running) < self.at_once:
                batch, _ = scheduler.next_batch(self.now, self.at_once - len(self._running))
                if batch is None:
                    break
                number += 1
                heapq.heappush(self._running, (self.now + self._duration(batch, exit_of), number, batch))
            self.now, _, batch = heapq.heappop(self._running)
            last = stages - 1 if not self.merges else batch.stage
            leaves_B = np.array([exit_of[id(group.request)] <= last for group in batch.groups])
            for group, leaves in zip(batch.groups, leaves_B, strict=True):
                if leaves:
                    group.request.closed = True
                    del exit_of[id(group.request)]
            scheduler.advance(batch, leaves_B, self.now)
            gone = int(leaves_B.sum())
            self.answered += gone
            for _ in range(gone):
                admit()
        return self.answered / self.now

    def _duration(self, batch: Batch, exit_of: dict[int, int]) -> float:
        """Give a batch's time; without merging it goes to the end, with ever fewer rows."""
        if self.merges:
            return self.costs.seconds(batch.stage, batch.rows)
        depths = [exit_of[id(group.request)] for group in batch.groups]
        stages = range(batch.stage, max(depths) + 1)
        return sum(self.costs.seconds(stage, sum(each >= stage for each in depths)) for stage in stages)


def _depths(shares: Sequence[float]) -> Iterator[int]:
    generator = np.random.default_rng(0)
    while True:
        yield from generator.choice(len(shares), size=1000, p=np.array(shares) / sum(shares)).tolist()


def device(launch_seconds: float, row_seconds: float, stages: int) -> StageCosts:
    """Give the costs of a device with a fixed cost a batch."""
    return StageCosts(
        [{rows: launch_seconds + rows * row_seconds for rows in SIZES}] * stages, MAX_BATCH_SIZE
    )


def main() -> None:
    """Print what merging gains by launch cost, and the check against the engine."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulation", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of the check, default 3")
    options = parser.parse_args()
    print(row("launch, in rows", *[f"{outstanding} outstanding" for outstanding in (8, 64, 512)]))
    print(rule(4))
    for launch in LAUNCHES_IN_ROWS:
        costs = device(launch * ROW_SECONDS, ROW_SECONDS, len(SHARES))
        gains = []
        for outstanding in (8, 64, 512):
            merged, apart = (
                Simulation(costs, outstanding, 1, SHARES, merges).rows_per_second(ROWS)
                for merges in (True, False)
            )
            gains.append(f"{merged / apart:.2f}")
        print(row(str(launch), *gains))
    print()
    print(check(options.rounds))


def check(rounds: int) -> str:
    """Compare the simulated CPU with the engine on the `heavy` network."""
    images_NCHW = load_images()
    with tempfile.TemporaryDirectory() as folder:
        network = prepare("heavy", images_NCHW, Path(folder))
        limits = EngineLimits(MAX_BATCH_SIZE, 1024, 4 * MAX_BATCH_SIZE, workers=2, patience=1)
        metrics = Metrics(CollectorRegistry()).for_model("heavy", 1, len(SHARES))
        engine = Engine(network.version, CPU, limits, metrics)
        measured = median(_measure(engine, images_NCHW) for _ in range(rounds))
        shares = network.exit_shares["balanced"]
        simulated = Simulation(engine.costs.side_by_side, 64, 2, shares).rows_per_second(2000)
        engine.close()
    return (
        f"CPU, heavy network at balanced, 64 rows outstanding, 2 workers: simulated {simulated:,.0f} rows a "
        f"second, the engine {measured:,.0f} (median of {rounds}), {measured / simulated:.0%}"
    )


def _measure(engine: Engine, images_NCHW: np.ndarray) -> float:
    rows = len(images_NCHW)
    return rows / closed_loop_seconds(
        engine, images_NCHW, "balanced", request_rows=1, requests=rows, outstanding=MAX_BATCH_SIZE
    )


if __name__ == "__main__":
    main()
