"""The scheduler at other costs: where it pays to put survivors of several batches together.

    python -m bench.simulation

Drives the real queues and scheduler by a clock of its own, with a batch costing `launch + rows x row`
seconds a stage: on a GPU the launch is most of it, on a CPU next to nothing. Beside it, the same arrivals
where the survivors of a batch stay among themselves. The CPU case is checked against the engine, measured
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

from bench.closed_loop import closed_loop_seconds, engine_of, make_metrics
from bench.serving.networks import load_images, prepare
from serving.engine.queues import StageQueues
from serving.engine.request import NO_DEADLINE, Batch, FutureReply, Request
from serving.engine.scheduler import Lane, Scheduler
from serving.engine.version import MIN_BLOCKS
from serving.exits.policy import ExitRule
from serving.stages.costs import MeasuredCosts, StageCosts
from training.reporting.markdown import row, rule

MAX_BATCH_SIZE = 64
SIZES = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.60, 0.20, 0.12, 0.08)
"""What leaves at each exit, as on the bench's untrained networks."""
ROW_SECONDS = 10e-6
LAUNCHES_IN_ROWS = (0, 1, 4, 16, 64)
"""What a launch costs, in rows."""
ROWS = 20_000
PERMITS = 2
"""Batches at once in the check."""


@dataclass
class Simulation:
    """A closed loop of callers with one row each, on a device that runs so many batches at once."""

    costs: StageCosts
    outstanding: int
    permits: int
    shares: Sequence[float]
    merges: bool = True
    """Whether survivors of different batches share one."""
    now: float = 0.0
    answered: int = 0
    _exit_of: dict[Request, int] = field(default_factory=dict)
    _running: list[tuple[float, int, Batch]] = field(default_factory=list)

    def rows_per_second(self, rows: int) -> float:
        """Run until so many rows are answered."""
        stages = len(self.shares)
        blocks = [MIN_BLOCKS] * (stages - 1) + [self.permits]
        lane = Lane("simulated", StageQueues(MeasuredCosts(self.costs, self.costs), blocks), self.outstanding)
        scheduler = Scheduler[str](self.permits)
        scheduler.add(lane)
        rule_ = ExitRule((0.5,) * (stages - 1), stages - 1)
        depths = _depths(self.shares)
        free, number = self.outstanding, 0
        while self.answered < rows:
            for _ in range(free):
                request = Request({}, 1, rule_, NO_DEADLINE, FutureReply(), admitted_seconds=self.now)
                self._exit_of[request] = next(depths)
                scheduler.admit(lane, request)
            while (work := scheduler.next_batch(self.now, [])) is not None:
                number += 1
                heapq.heappush(self._running, (self.now + self._duration(work[1]), number, work[1]))
            self.now, _, batch = heapq.heappop(self._running)
            last = batch.exit if self.merges else stages - 1
            leaves_B = np.array([self._exit_of[group.request] <= last for group in batch.groups])
            lane.queues.advance(batch, leaves_B, leaves_B.astype(int).tolist(), (), self.now)
            scheduler.done(lane, batch, batch.seconds)
            free = int(leaves_B.sum())
            self.answered += free
        return self.answered / self.now

    def _duration(self, batch: Batch) -> float:
        """Return a batch's time; without merging it goes to the end, with ever fewer rows."""
        if self.merges:
            return batch.seconds
        depths = [self._exit_of[group.request] for group in batch.groups]
        stages = range(batch.stage, max(depths) + 1)
        return sum(
            self.costs.seconds(range(stage, stage + 1), sum(each >= stage for each in depths))
            for stage in stages
        )


def _depths(shares: Sequence[float]) -> Iterator[int]:
    generator = np.random.default_rng(0)
    while True:
        yield from generator.choice(len(shares), size=1000, p=np.array(shares) / sum(shares)).tolist()


def device(launch_seconds: float, row_seconds: float, stages: int) -> StageCosts:
    """Return the costs of a device with a fixed cost a batch."""
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
    rows = len(images_NCHW)
    with tempfile.TemporaryDirectory() as folder:
        network = prepare("heavy", images_NCHW, Path(folder))
        with engine_of(network.version, PERMITS, make_metrics(network.version)) as (engine, version):
            seconds = median(
                closed_loop_seconds(
                    engine,
                    version,
                    images_NCHW,
                    "balanced",
                    request_rows=1,
                    requests=rows,
                    outstanding=MAX_BATCH_SIZE,
                )
                for _ in range(rounds)
            )
            costs = version.costs.side_by_side
        shares = network.exit_shares["balanced"]
        simulated = Simulation(costs, MAX_BATCH_SIZE, PERMITS, shares).rows_per_second(2000)
    return (
        f"CPU, heavy network at balanced, 64 rows outstanding, {PERMITS} batches at once: simulated "
        f"{simulated:,.0f} rows a second, the engine {rows / seconds:,.0f} (median of {rounds}), "
        f"{rows / seconds / simulated:.0%}"
    )


if __name__ == "__main__":
    main()
