"""One logits array a split, from the exported stages as they are served; all else reduces it.

Calibration, threshold search, certificates and the report read what is made here, and all of them
decide exits by `serving.exits.policy`, the server's own. Knows nothing of how a network was
trained, nor of files.

Shapes: `N` rows of a split, `E` exits, `K` classes. Cost is cumulative: `cost_E[k]` is what a row
costs that leaves at exit k, in multiply-adds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import Bools, ExitRule, Floats, Integers, read_exit, route
from serving.repository.manifest import Risk
from serving.stages.runner import StageRunner
from training.errors import NotFinite
from training.exits.intervals import Estimate, Proportion, paired_difference


def evaluate(
    runner: StageRunner,
    images_N: NDArray[np.uint8],
    *,
    input_name: str = "image",
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Run a split through every exported stage; returns logits_ENK.

    progress is told after each batch how many rows it held.
    """
    batches = []
    for start in range(0, len(images_N), runner.slots):
        batch_B = np.ascontiguousarray(images_N[start : start + runner.slots])
        batches.append(runner.run_every_stage({input_name: batch_B}))
        if progress is not None:
            progress(len(batch_B))
    if not batches:
        raise ValueError("split: expected at least 1 row to evaluate, got 0")
    return np.concatenate(batches, axis=1)


@dataclass(frozen=True)
class Readings:
    """What every exit says of every row of a split, and what is true."""

    confidence_EN: Floats
    label_EN: Integers
    truth_N: Integers

    @property
    def exits(self) -> int:
        """How many exits there are."""
        return len(self.label_EN)

    @property
    def rows(self) -> int:
        """How many rows the split has."""
        return len(self.truth_N)

    @property
    def correct_EN(self) -> Bools:  # noqa: N802 - a shape suffix
        """Where an exit's label is the true one."""
        return np.asarray(self.label_EN == self.truth_N)

    @property
    def agrees_EN(self) -> Bools:  # noqa: N802 - a shape suffix
        """Where an exit's label is the final exit's."""
        return np.asarray(self.label_EN == self.label_EN[-1])

    def accuracy(self, exit_number: int) -> Proportion:
        """Count the rows that are right when every row leaves at that exit."""
        return Proportion(int(self.correct_EN[exit_number].sum()), self.rows)


def read(
    logits_ENK: NDArray[np.floating], truth_N: NDArray[np.integer], calibration_temperatures: Sequence[float]
) -> Readings:
    """Read label and confidence of each exit off its logits, as the server does."""
    exits, rows, classes = logits_ENK.shape
    if len(calibration_temperatures) != exits:
        raise ValueError(
            f"calibration temperatures: expected one an exit, {exits}, got {len(calibration_temperatures)}"
        )
    if len(truth_N) != rows:
        raise ValueError(f"truth: expected one label a row, {rows}, got {len(truth_N)}")
    check_labels(truth_N, classes)
    check_finite(logits_ENK)
    readouts = [
        read_exit(logits_NK, temperature)
        for logits_NK, temperature in zip(logits_ENK, calibration_temperatures, strict=True)
    ]
    return Readings(
        confidence_EN=np.stack([readout.confidence_B for readout in readouts]),
        label_EN=np.stack([readout.label_B for readout in readouts]),
        truth_N=truth_N.astype(np.int64),
    )


def check_labels(truth_N: NDArray[np.integer], classes: int) -> None:
    """Raise ValueError where a label is none of 0..classes-1."""
    if len(truth_N) and not 0 <= truth_N.min() <= truth_N.max() < classes:
        raise ValueError(f"truth: expected labels 0..{classes - 1}, got {truth_N.min()}..{truth_N.max()}")


def check_finite(logits_ENK: NDArray[np.floating]) -> None:
    """Raise NotFinite where an exit gave NaN or infinity: no figure made of it would mean a thing."""
    spoiled_EN = ~np.isfinite(logits_ENK).all(axis=-1)
    for number, spoiled_N in enumerate(spoiled_EN):
        if spoiled_N.any():
            raise NotFinite(
                f"logits of exit {number}: expected finite numbers, "
                f"got NaN or infinity in {int(spoiled_N.sum())} of {spoiled_N.size} rows"
            )


@dataclass(frozen=True)
class EvaluationCounts:
    """What one exit rule gave on a split, in counts: shares derive from them."""

    n: int
    correct: int
    final_correct: int
    """Rows that the final exit has right, wherever they left."""
    gained: int
    """Rows answered right that the final exit has wrong."""
    disagreements: int
    """Rows whose answer differs from the final exit's."""
    exit_counts: tuple[int, ...]
    multiply_adds_share: float
    """Mean multiply-adds of a row over those of the full depth."""

    @property
    def accuracy(self) -> float:
        """Share of rows answered right."""
        return self.correct / self.n

    @property
    def accuracy_loss(self) -> float:
        """Against the final exit; negative where leaving early was more often right."""
        return (self.final_correct - self.correct) / self.n

    @property
    def gain(self) -> Estimate:
        """Accuracy against the final exit's on the same rows, with its interval."""
        return paired_difference(self.gained, self.harms, self.n)

    @property
    def harms(self) -> int:
        """Rows answered wrong that the final exit has right."""
        return self.gained - (self.correct - self.final_correct)

    def losses(self, risk: Risk) -> int:
        """Return the rows that a risk counts."""
        return self.harms if risk is Risk.HARM else self.disagreements

    def risk(self, risk: Risk) -> float:
        """Return the share of rows that a risk counts."""
        return self.losses(risk) / self.n

    @property
    def disagreement(self) -> float:
        """Share of rows whose answer differs from the final exit's."""
        return self.disagreements / self.n

    @property
    def harm(self) -> float:
        """Share of rows answered wrong that the final exit has right."""
        return self.harms / self.n

    @property
    def exit_shares(self) -> tuple[float, ...]:
        """Share of rows that left at each exit."""
        return tuple(count / self.n for count in self.exit_counts)


def outcome(readings: Readings, rule: ExitRule, cost_E: Sequence[int]) -> EvaluationCounts:
    """Route a split under one rule, as the server would, and count what comes of it."""
    check_cost(cost_E, readings.exits)
    exit_N = route(readings.confidence_EN, rule)
    every_N = np.arange(readings.rows)
    counts_E = np.bincount(exit_N, minlength=readings.exits).tolist()
    spent = sum(count * cost for count, cost in zip(counts_E, cost_E, strict=True))
    correct_N, final_correct_N = readings.correct_EN[exit_N, every_N], readings.correct_EN[-1]
    return EvaluationCounts(
        n=readings.rows,
        correct=int(correct_N.sum()),
        final_correct=int(final_correct_N.sum()),
        gained=int((correct_N & ~final_correct_N).sum()),
        disagreements=int((~readings.agrees_EN[exit_N, every_N]).sum()),
        exit_counts=tuple(counts_E),
        multiply_adds_share=spent / (readings.rows * cost_E[-1]),
    )


def cumulative(stage_cost: Sequence[int]) -> tuple[int, ...]:
    """Turn what each stage costs into what a row costs that leaves at each exit: running sums."""
    return tuple(accumulate(stage_cost))


def check_cost(cost_E: Sequence[int], exits: int) -> None:
    """Raise ValueError unless the cost is cumulative: positive and rising from exit to exit."""
    if len(cost_E) != exits:
        raise ValueError(f"cost: expected one an exit, {exits}, got {len(cost_E)}")
    if any(later <= earlier for earlier, later in zip((0, *cost_E), cost_E, strict=False)):
        raise ValueError(f"cost: expected cumulative multiply-adds, rising and above 0, got {list(cost_E)}")
