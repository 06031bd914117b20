"""Evaluation of exported stages on a split: logits, readings, and counts under an exit rule.

Stages run in the server's runner, and `serving.exits.policy` decides exits as in serving. Calibration,
threshold search, certificates and the report all read these results.

Shapes: `G` generations, `E` exits, `N` rows of a split, `K` classes. Cost is cumulative: `cost_E[k]` is the
number of multiply-adds of a row that leaves at exit k.
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
    """Run a split through every exported stage; return logits_ENK.

    progress: called after each batch with its number of rows.
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
    """Confidence and label of every exit for every row of a split, with the true labels."""

    confidence_EN: Floats
    label_EN: Integers
    truth_N: Integers

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.label_EN)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.truth_N)

    @property
    def correct_EN(self) -> Bools:  # noqa: N802 - a shape suffix
        """Whether an exit's label is the true label."""
        return np.asarray(self.label_EN == self.truth_N)

    @property
    def agrees_EN(self) -> Bools:  # noqa: N802 - a shape suffix
        """Whether an exit's label is the final exit's label."""
        return np.asarray(self.label_EN == self.label_EN[-1])

    def accuracy(self, exit_number: int) -> Proportion:
        """Return the accuracy if every row leaves at this exit."""
        return Proportion(int(self.correct_EN[exit_number].sum()), self.rows)


def read(
    logits_ENK: NDArray[np.floating], truth_N: NDArray[np.integer], calibration_temperatures: Sequence[float]
) -> Readings:
    """Compute label and confidence of each exit from its logits, as the server does."""
    exits, rows, classes = logits_ENK.shape
    if len(calibration_temperatures) != exits:
        raise ValueError(
            f"calibration temperatures: expected one per exit, {exits}, got {len(calibration_temperatures)}"
        )
    if len(truth_N) != rows:
        raise ValueError(f"truth: expected one label per row, {rows}, got {len(truth_N)}")
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
    """Raise ValueError if a label is outside 0..classes-1."""
    if len(truth_N) and not 0 <= truth_N.min() <= truth_N.max() < classes:
        raise ValueError(f"truth: expected labels 0..{classes - 1}, got {truth_N.min()}..{truth_N.max()}")


def check_finite(logits_ENK: NDArray[np.floating]) -> None:
    """Raise NotFinite if an exit has NaN or infinite logits: all figures from them would be meaningless."""
    not_finite_EN = ~np.isfinite(logits_ENK).all(axis=-1)
    for number, not_finite_N in enumerate(not_finite_EN):
        if not_finite_N.any():
            raise NotFinite(
                f"logits of exit {number}: expected finite numbers, "
                f"got NaN or infinity in {int(not_finite_N.sum())} of {not_finite_N.size} rows"
            )


@dataclass(frozen=True)
class EvaluationCounts:
    """Results of one exit rule on a split, as counts."""

    n: int
    correct: int
    final_correct: int
    """Rows that the final exit classifies correctly, also if they left at an earlier exit."""
    gained: int
    """Rows with a correct answer where the final exit is wrong."""
    disagreements: int
    """Rows whose answer differs from the final exit's."""
    exit_counts: tuple[int, ...]
    multiply_adds_share: float
    """Mean multiply-adds of a row, divided by those of full depth."""

    @property
    def accuracy(self) -> float:
        """Share of rows with a correct answer."""
        return self.correct / self.n

    @property
    def accuracy_loss(self) -> float:
        """Accuracy of the final exit minus accuracy; negative if early answers were correct more often."""
        return (self.final_correct - self.correct) / self.n

    @property
    def gain(self) -> Estimate:
        """Accuracy minus the final exit's on the same rows, with its interval."""
        return paired_difference(self.gained, self.harms, self.n)

    @property
    def harms(self) -> int:
        """Rows with a wrong answer where the final exit is right."""
        return self.gained - (self.correct - self.final_correct)

    def losses(self, risk: Risk) -> int:
        """Return the number of rows that a risk counts."""
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
        """Share of rows with a wrong answer where the final exit is right."""
        return self.harms / self.n

    @property
    def exit_shares(self) -> tuple[float, ...]:
        """Share of rows that left at each exit."""
        return tuple(count / self.n for count in self.exit_counts)


def outcome(readings: Readings, rule: ExitRule, cost_E: Sequence[int]) -> EvaluationCounts:
    """Route a split by an exit rule, as the server does, and count the results."""
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
    """Compute the cost of a row that leaves at each exit from the costs of the stages."""
    return tuple(accumulate(stage_cost))


def check_cost(cost_E: Sequence[int], exits: int) -> None:
    """Raise ValueError unless the cost is positive and rises from exit to exit."""
    if len(cost_E) != exits:
        raise ValueError(f"cost: expected one per exit, {exits}, got {len(cost_E)}")
    if any(later <= earlier for earlier, later in zip((0, *cost_E), cost_E, strict=False)):
        raise ValueError(f"cost: expected cumulative multiply-adds, rising and above 0, got {list(cost_E)}")


def ensemble_probabilities(logits_of_G: Sequence[NDArray[np.floating]]) -> Floats:
    """Average the softmax outputs of several generations at temperature 1; return [E, N, K]."""
    if not logits_of_G:
        raise ValueError("ensemble: expected at least 1 generation, got 0")
    total_ENK = np.zeros(logits_of_G[0].shape, dtype=np.float64)
    for logits_ENK in logits_of_G:
        check_finite(logits_ENK)
        total_ENK += np.stack([read_exit(logits_NK, 1.0).probabilities_BK for logits_NK in logits_ENK])
    return total_ENK / len(logits_of_G)


def ensemble_accuracy(
    logits_of_G: Sequence[NDArray[np.floating]], truth_N: NDArray[np.integer]
) -> tuple[Proportion, ...]:
    """Compute the accuracy of each exit of an ensemble of generations, if every row leaves there."""
    correct_EN: Bools = ensemble_probabilities(logits_of_G).argmax(axis=2) == truth_N
    return tuple(Proportion(int(correct_N.sum()), len(truth_N)) for correct_N in correct_EN)
