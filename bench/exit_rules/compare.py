"""One network's exit rules compared: each split decides what it decides for a published version.

The temperature split calibrates and fits, tune gives each rule its thresholds, certify its
certificates; the test split judges. Re-cuts deal the first three anew, so that what a certificate costs
is not one cut's luck. Knows nothing of files or pages.

Shapes: `N` rows of a split, `E` exits, `K` classes, `R` resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.exit_rules.curves import (
    Curve,
    Resamples,
    curve,
    front,
    interval,
    joint_intervals,
    row_figures,
)
from bench.exit_rules.record import (
    ACCURACY,
    BETTER,
    DISAGREEMENT,
    FIGURES,
    CertifiedCost,
    Course,
    Difference,
    Patience,
    PlainPoint,
)
from bench.exit_rules.rules import (
    PLAIN,
    RuleReadings,
    fit_weights,
    leave_patiently,
    log_probabilities,
    make_rules,
)
from serving.exits.policy import Floats, Integers
from serving.repository.manifest import Risk
from training.exits.calibrate import calibration_temperature
from training.exits.certify import certify
from training.exits.evaluate import outcome
from training.exits.thresholds import Candidate, pareto_path, target_candidate

BUDGETS = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7)
COURSE = tuple(round(0.01 * step, 2) for step in range(15, 71))
"""Budgets, as shares of the full depth, that the plot and the mean run over; those below exit 0 drop out."""
TEMPERATURE, TUNE, CERTIFY, TEST = "temperature", "tune", "certify", "test"


@dataclass(frozen=True)
class Goal:
    """What a published point was asked for."""

    max_accuracy_loss: float
    epsilon: float
    delta: float


@dataclass(frozen=True)
class SplitLogits:
    """A split's logits from the exported stages, with the truth."""

    logits_ENK: Floats
    truth_N: Integers


class Trial:
    """Every rule on one cut of the splits, made ready: fitted, and its path traced on tune."""

    def __init__(self, splits: Mapping[str, SplitLogits], cost_E: Sequence[int]) -> None:
        self.cost_E = cost_E
        fitting = splits[TEMPERATURE]
        temperatures = tuple(
            calibration_temperature(logits_NK, fitting.truth_N) for logits_NK in fitting.logits_ENK
        )
        logs = {name: log_probabilities(rows.logits_ENK, temperatures) for name, rows in splits.items()}
        rules = make_rules(logs[TEMPERATURE], fitting.truth_N)
        self.powers = fit_weights(logs[TEMPERATURE], fitting.truth_N)
        self.readings: dict[str, dict[str, RuleReadings]] = {
            name: {split: read(logs[split], splits[split].truth_N) for split in (TUNE, CERTIFY, TEST)}
            for name, read in rules.items()
        }
        self.paths = {name: self._path(each[TUNE]) for name, each in self.readings.items()}

    def _path(self, tune: RuleReadings) -> tuple[Candidate, ...]:
        """Trace a rule's trade-off; accuracy is lost against the final exit alone, whatever it answers."""
        final_correct = int((tune.final_N == tune.truth_N).sum())
        return tuple(
            replace(row, tune=replace(row.tune, final_correct=final_correct))
            for row in pareto_path(tune, self.cost_E)
        )

    def certified(self, rule: str, goal: Goal) -> Candidate:
        """Certify a rule as a published point is: the fastest row within the target and epsilon."""
        path = self.paths[rule]
        allowed = [row for row in path if row.tune.accuracy_loss <= goal.max_accuracy_loss]
        target = target_candidate(allowed, goal.max_accuracy_loss) if allowed else path[0]
        return certify(
            path,
            target,
            self.readings[rule][CERTIFY],
            self.cost_E,
            epsilon=goal.epsilon,
            delta=goal.delta,
            risk=Risk.DISAGREEMENT,
        ).candidate

    def tested(self, rule: str, row: Candidate) -> tuple[float, float, float]:
        """Return a row's multiply-adds share, accuracy and disagreement on test."""
        found = outcome(self.readings[rule][TEST], row.rule, self.cost_E)
        return found.multiply_adds_share, found.accuracy, found.disagreement


class Judged:
    """Every rule's curve on test, and its differences to the plain rule at equal multiply-adds."""

    def __init__(self, trial: Trial, resamples: int, published: Sequence[float]) -> None:
        self._trial = trial
        test = trial.readings[PLAIN][TEST]
        self._draws = Resamples(test.rows, resamples, seed=0)
        self._published = tuple(published)
        least = trial.cost_E[0] / trial.cost_E[-1]
        self.budgets = sorted({*self._published, *(budget for budget in BUDGETS if budget > least)})
        self.course = tuple(budget for budget in COURSE if budget > least)
        self.curves = {
            (rule, figure): curve(
                readings[TEST], front(trial.paths[rule], figure), figure, trial.cost_E, self._draws
            )
            for rule, readings in trial.readings.items()
            for figure in FIGURES
        }

    def plain(self) -> tuple[PlainPoint, ...]:
        """Return the plain rule's own figures."""
        accuracy, disagreement = (self._at(PLAIN, figure, self.budgets)[0] for figure in FIGURES)
        return tuple(
            PlainPoint(budget=budget, accuracy=right, disagreement=differing)
            for budget, right, differing in zip(
                self.budgets, accuracy.tolist(), disagreement.tolist(), strict=True
            )
        )

    def differences(self, recuts: Sequence[Trial]) -> tuple[Difference, ...]:
        """Compare every rule at every budget; those at published points jointly too."""
        keys = [(*key, budget) for key in self.curves if key[0] != PLAIN for budget in self.budgets]
        columns_RD = self._columns()
        again_TD = np.concatenate([Judged(trial, 0, self._published)._columns()[:1] for trial in recuts])
        decisive = [number for number, key in enumerate(keys) if key[2] in self._published]
        jointly = dict(zip(decisive, joint_intervals(columns_RD[:, decisive]), strict=True))
        return tuple(
            Difference(
                rule=rule,
                figure=figure,
                budget=budget,
                alone=interval(columns_RD[:, number]),
                jointly=jointly.get(number),
                recut_change=float(again_TD[:, number].mean()),
                recuts_better=int((BETTER[figure] * again_TD[:, number] > 0).sum()),
            )
            for number, (rule, figure, budget) in enumerate(keys)
        )

    def courses(self) -> tuple[Course, ...]:
        """Follow every rule along the budgets."""
        return tuple(
            self._course(rule, figure, self._over_plain(rule, figure, self.course))
            for rule, figure in self.curves
            if rule != PLAIN
        )

    def patience(self) -> tuple[Patience, ...]:
        """Compare leaving after so many agreeing exits with the plain rule at the same multiply-adds."""
        test = self._trial.readings[PLAIN][TEST]
        return tuple(self._patience(test, agreeing) for agreeing in range(2, test.exits))

    def _patience(self, test: RuleReadings, agreeing: int) -> Patience:
        exits_JN = leave_patiently(test.label_EN, agreeing)[np.newaxis]
        differences = {}
        for figure in FIGURES:
            cost_RJ, value_RJ = (
                self._draws.means(each) for each in row_figures(test, exits_JN, figure, self._trial.cost_E)
            )
            differences[figure] = interval((value_RJ - self.curves[PLAIN, figure].at(cost_RJ))[:, 0])
        return Patience(
            agreeing=agreeing,
            multiply_adds_share=float(cost_RJ[0, 0]),
            accuracy=differences[ACCURACY],
            disagreement=differences[DISAGREEMENT],
        )

    @staticmethod
    def _course(rule: str, figure: str, over_RB: Floats) -> Course:
        return Course(
            rule=rule, figure=figure, values=tuple(over_RB[0].tolist()), mean=interval(over_RB.mean(axis=1))
        )

    def _columns(self) -> Floats:
        return np.concatenate(
            [self._over_plain(*key, self.budgets) for key in self.curves if key[0] != PLAIN], axis=1
        )

    def _over_plain(self, rule: str, figure: str, budgets: Sequence[float]) -> Floats:
        return self._at(rule, figure, budgets) - self._at(PLAIN, figure, budgets)

    def _at(self, rule: str, figure: str, budgets: Sequence[float]) -> Floats:
        found: Curve = self.curves[rule, figure]
        return found.at(np.broadcast_to(np.array(budgets), (len(found.cost_RJ), len(budgets))))


def certificates(
    trial: Trial, goals: Mapping[str, Goal], recuts: Sequence[Trial]
) -> tuple[CertifiedCost, ...]:
    """Certify every rule for every goal, on the cut as it is and on re-cuts."""
    changes: dict[tuple[str, str], list[float]] = {
        (rule, point): [] for rule in trial.paths for point in goals
    }
    for again in recuts:
        for point, goal in goals.items():
            share = {rule: again.tested(rule, again.certified(rule, goal))[0] for rule in again.paths}
            for rule in share:
                changes[rule, point].append(share[rule] - share[PLAIN])
    rows = []
    for (rule, point), change in changes.items():
        share_, accuracy, disagreement = trial.tested(rule, trial.certified(rule, goals[point]))
        rows.append(
            CertifiedCost(
                rule=rule,
                point=point,
                epsilon=goals[point].epsilon,
                multiply_adds_share=share_,
                accuracy=accuracy,
                disagreement=disagreement,
                recut_change=float(np.mean(change)),
                recuts_cheaper=sum(each < 0 for each in change),
                recuts_dearer=sum(each > 0 for each in change),
            )
        )
    return tuple(rows)


def recut(splits: Mapping[str, SplitLogits], seed: int) -> dict[str, SplitLogits]:
    """Deal the rows of the temperature, tune and certify splits anew, each as many as it had; test stays."""
    names = (TEMPERATURE, TUNE, CERTIFY)
    logits_ENK = np.concatenate([splits[name].logits_ENK for name in names], axis=1)
    truth_N = np.concatenate([splits[name].truth_N for name in names])
    order_N = np.random.default_rng(seed).permutation(len(truth_N))
    ends = np.cumsum([len(splits[name].truth_N) for name in names])[:-1]
    dealt = zip(names, np.split(order_N, ends), strict=True)
    return dict(splits) | {name: SplitLogits(logits_ENK[:, row_N], truth_N[row_N]) for name, row_N in dealt}
