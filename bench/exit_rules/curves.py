"""A rule's trade-off on test rows, and its paired difference to another's at equal multiply-adds.

The tune split gives each rule a row of thresholds, from all rows leaving at once to the least loss. On
test every choice is a point; between neighbouring points a service can mix, so the curve is linear there.
A resample draws test rows, the same for all rules, and moves cost and figure of every point together.
Knows nothing of how a rule scores.

Shapes: `N` test rows, `J` points of a curve, `R` resamples, the first being the rows as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.exit_rules.record import ACCURACY, Interval
from bench.exit_rules.rules import RuleReadings
from serving.exits.policy import Floats, Integers, route
from training.exits.thresholds import Candidate

CONFIDENCE = 0.95
_COST_DIGITS = 10


@dataclass(frozen=True)
class Curve:
    """Mean multiply-adds share and a figure at each point, in every resample."""

    cost_RJ: Floats
    value_RJ: Floats

    def at(self, budget_RB: Floats) -> Floats:
        """Read the figure off at budgets, [R, B]; beyond its last point the curve is level."""
        # Points of equal cost stay in the tune split's order, whatever a sum's last digits say.
        rounded_RB = np.round(budget_RB, _COST_DIGITS)
        rounded_RJ = np.round(self.cost_RJ, _COST_DIGITS)
        order_RJ = np.argsort(rounded_RJ, axis=1, kind="stable")
        cost_RJ = np.take_along_axis(rounded_RJ, order_RJ, axis=1)
        value_RJ = np.take_along_axis(self.value_RJ, order_RJ, axis=1)
        read_RB = np.stack(
            [
                np.interp(budgets, cost, value)
                for budgets, cost, value in zip(rounded_RB, cost_RJ, value_RJ, strict=True)
            ]
        )
        return np.asarray(read_RB, dtype=np.float64)


def front(path: Sequence[Candidate], figure: str) -> list[Candidate]:
    """Keep what no other row of a path beats on the tune split in that figure and in cost, by rising cost."""
    kept: list[Candidate] = []
    for row in sorted(path, key=lambda row: (row.tune.multiply_adds_share, loss(row, figure))):
        if not kept or loss(row, figure) < loss(kept[-1], figure):
            kept.append(row)
    return kept


def loss(row: Candidate, figure: str) -> float:
    """Return what a row loses in a figure on the tune split."""
    return row.tune.accuracy_loss if figure == ACCURACY else row.tune.disagreement


def curve(
    readings: RuleReadings,
    choices: Sequence[Candidate],
    figure: str,
    cost_E: Sequence[int],
    resamples: "Resamples",
) -> Curve:
    """Route the test rows under every choice, and take means in every resample."""
    exits_JN = np.stack([route(readings.confidence_EN, row.rule) for row in choices])
    cost_JN, value_JN = row_figures(readings, exits_JN, figure, cost_E)
    return Curve(resamples.means(cost_JN), resamples.means(value_JN))


def row_figures(
    readings: RuleReadings, exits_JN: Integers, figure: str, cost_E: Sequence[int]
) -> tuple[Floats, Floats]:
    """Return each row's multiply-adds share, and 1 where it is right, or differs from the final exit."""
    every_N = np.arange(readings.rows)
    counted_EN = readings.correct_EN if figure == ACCURACY else ~readings.agrees_EN
    cost = np.asarray(cost_E, dtype=np.float64)
    return (cost / cost[-1])[exits_JN], counted_EN[exits_JN, every_N].astype(np.float64)


class Resamples:
    """Test rows sampled with replacement, the same ones for every caller."""

    def __init__(self, rows: int, resamples: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._counts_RN = np.ones((1 + resamples, rows))
        for counts_N in self._counts_RN[1:]:
            counts_N[:] = np.bincount(generator.integers(0, rows, rows), minlength=rows)

    def means(self, value_JN: Floats) -> Floats:
        """Return each value's mean as the rows are, then in every resample: [R, J]."""
        return np.asarray(self._counts_RN @ value_JN.T / value_JN.shape[1])


def interval(difference_R: Floats) -> Interval:
    """Return a difference as the rows are, with the percentiles of its resamples."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(difference_R[1:], (tail, 100 - tail))
    return Interval(value=float(difference_R[0]), low=float(low), high=float(high))


def joint_intervals(differences_RD: Floats) -> list[Interval]:
    """Return intervals that hold all at once in 95 % of resamples, equally many standard errors wide."""
    spread_D = differences_RD[1:].std(axis=0)
    away_RD = np.abs(differences_RD[1:] - differences_RD[0]) / np.where(spread_D > 0, spread_D, np.inf)
    errors = float(np.quantile(away_RD.max(axis=1), CONFIDENCE))
    return [
        Interval(value=value, low=value - errors * spread, high=value + errors * spread)
        for value, spread in zip(differences_RD[0].tolist(), spread_D.tolist(), strict=True)
    ]
