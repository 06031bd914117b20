"""The speed of an operating point against `exact`, in interleaved rounds.

Every round sends all images at both points, so that a slow moment of the machine affects both.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.answers import Answers, ask
from serving.client import Client
from serving.repository.manifest import EXACT_POINT, Manifest

CALLERS = (1, 32)
ROUNDS = 8


@dataclass(frozen=True)
class Comparison:
    """The rounds of `exact` and of another point, with the same number of callers."""

    callers: int
    point: str
    rounds: Mapping[str, Sequence[Answers]]
    """The rounds of each of the two points, by name."""

    def images_per_second(self, point: str) -> float:
        """Return the images of all rounds, divided by their time."""
        rounds = self.rounds[point]
        return sum(len(each.label_N) for each in rounds) / sum(each.seconds for each in rounds)

    @property
    def speedup(self) -> float:
        """The images per second of the point, divided by those of `exact`."""
        return self.images_per_second(self.point) / self.images_per_second(EXACT_POINT)


def compare(
    client: Client,
    manifest: Manifest,
    images_NCHW: NDArray[np.uint8],
    point: str,
    callers: int,
    rounds: int = ROUNDS,
) -> Comparison:
    """Measure both points in alternating order."""
    names = [EXACT_POINT, point]
    measured: dict[str, list[Answers]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            measured[name].append(ask(client, manifest, images_NCHW, name, callers))
        names.reverse()
    return Comparison(callers, point, measured)


def table(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield the lines of a table with one row per number of callers and point."""
    rounds_of_exact = len(comparisons[0].rounds[EXACT_POINT])
    yield (f"Speed in {rounds_of_exact} alternating rounds; client and server share {os.cpu_count()} cores")
    yield f"{'callers':>7}  {'point':<10} {'images/s':>9} {'p50 ms':>8} {'p99 ms':>8}"
    for comparison in comparisons:
        for name, rounds in comparison.rounds.items():
            p50, p99 = np.percentile(np.concatenate([each.milliseconds_N for each in rounds]), [50, 99])
            yield (
                f"{comparison.callers:>7}  {name:<10} {comparison.images_per_second(name):>9,.0f} "
                f"{p50:>8.2f} {p99:>8.2f}"
            )


def conclusion(
    comparisons: Sequence[Comparison], truth_N: NDArray[np.int64], answers: Mapping[str, Answers]
) -> str:
    """Return the speedup, and its price in answers, in one line."""
    point = comparisons[0].point
    exact_N, label_N = answers[EXACT_POINT].label_N, answers[point].label_N
    few, many = comparisons[0], comparisons[-1]
    return (
        f"{point} answers {many.speedup:.1f} times as many images a second as {EXACT_POINT} "
        f"with {many.callers} callers, {few.speedup:.1f} times with {few.callers}; "
        f"{(label_N != exact_N).mean():.1%} of answers differ; accuracy {(label_N == truth_N).mean():.1%} "
        f"against {(exact_N == truth_N).mean():.1%} on the {len(truth_N)} images"
    )
