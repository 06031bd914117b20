"""The exit rules that are compared: what each holds against a threshold, and what it answers.

The plain rule leaves where an exit's largest calibrated probability clears the exit's threshold, and
answers with that exit's label; what clears nowhere gets the final exit's. Each other rule changes one
thing of that. Patience has no thresholds: it leaves once enough exits in a row agree. Knows nothing of
splits, costs or thresholds.

Shapes: `N` rows of a split, `E` exits, `K` classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from serving.exits.policy import Bools, Floats, Integers
from training.exits.evaluate import Readings

PLAIN = "largest probability"
ENTROPY, MARGIN, MOST_CONFIDENT = "entropy", "margin", "most confident fallback"
PRODUCT, FITTED, MEAN = "product of experts", "product of experts, fitted", "mean of probabilities"
TO_THE_END = ", to the end"
"""Of a rule that combines exits: the final answer is combined too."""


@dataclass(frozen=True)
class RuleReadings(Readings):
    """What a rule says at every exit; agreement is with the final exit alone, whatever the rule answers."""

    final_N: Integers

    @property
    def agrees_EN(self) -> Bools:  # noqa: N802 - a shape suffix
        """Where a rule's answer is the final exit's own."""
        return np.asarray(self.label_EN == self.final_N)


Reader = Callable[[Floats, Integers], RuleReadings]
"""Makes a rule's readings of log_probability_ENK, the exits' calibrated ones, and of the truth."""


def make_rules(log_probability_ENK: Floats, truth_N: Integers) -> Mapping[str, Reader]:
    """Return every rule with thresholds by name; what a rule has to fit it fits on these rows."""
    weights = fit_weights(log_probability_ENK, truth_N)
    return {
        PLAIN: lambda scores_ENK, truth_N: _read(np.exp(scores_ENK), scores_ENK, truth_N),
        ENTROPY: lambda scores_ENK, truth_N: _read(
            np.exp(scores_ENK), scores_ENK, truth_N, negative_entropy(scores_ENK)
        ),
        MARGIN: lambda scores_ENK, truth_N: _read(
            np.exp(scores_ENK), scores_ENK, truth_N, margin(np.exp(scores_ENK))
        ),
        MOST_CONFIDENT: _most_confident,
        **_combined(PRODUCT, product),
        **_combined(FITTED, lambda scores_ENK: fitted_product(scores_ENK, weights)),
        **_combined(MEAN, mean),
    }


def log_probabilities(logits_ENK: Floats, calibration_temperatures: tuple[float, ...]) -> Floats:
    """Return the logarithm of every exit's calibrated probabilities."""
    temperature_E = np.array(calibration_temperatures)[:, np.newaxis, np.newaxis]
    return np.asarray(log_softmax(logits_ENK.astype(np.float64) / temperature_E, axis=-1))


def negative_entropy(log_probability_ENK: Floats) -> Floats:
    """Return 1 for a sure answer and 0 for a uniform one: 1 - entropy / log K."""
    entropy_EN = -(np.exp(log_probability_ENK) * log_probability_ENK).sum(axis=-1)
    return np.asarray(np.clip(1.0 - entropy_EN / np.log(log_probability_ENK.shape[-1]), 0.0, 1.0))


def margin(probability_ENK: Floats) -> Floats:
    """Return the largest probability's lead over the second."""
    ordered_ENK = np.sort(probability_ENK, axis=-1)
    return np.asarray(ordered_ENK[..., -1] - ordered_ENK[..., -2])


def product(log_probability_ENK: Floats) -> Floats:
    """Multiply the probabilities of the exits so far, renormalised (Jazbec et al., NeurIPS 2023)."""
    sums_ENK = np.cumsum(log_probability_ENK, axis=0)
    return np.asarray(np.exp(log_softmax(sums_ENK, axis=-1)))


def mean(log_probability_ENK: Floats) -> Floats:
    """Average the probabilities of the exits so far."""
    exits = np.arange(1, len(log_probability_ENK) + 1)[:, np.newaxis, np.newaxis]
    return np.asarray(np.cumsum(np.exp(log_probability_ENK), axis=0) / exits)


def fitted_product(log_probability_ENK: Floats, weights: tuple[Floats, ...]) -> Floats:
    """Multiply powers of the exits' probabilities so far, renormalised; weights[k] are exit k's powers."""
    sums_ENK = np.stack(
        [
            np.tensordot(powers, log_probability_ENK[: number + 1], axes=1)
            for number, powers in enumerate(weights)
        ]
    )
    return np.asarray(np.exp(log_softmax(sums_ENK, axis=-1)))


def fit_weights(log_probability_ENK: Floats, truth_N: Integers) -> tuple[Floats, ...]:
    """Find each exit's powers of the exits so far, 0 or above, of least negative log-likelihood."""
    return tuple(
        _fit_powers(log_probability_ENK[: number + 1], truth_N) for number in range(len(log_probability_ENK))
    )


def _fit_powers(log_probability_ENK: Floats, truth_N: Integers) -> Floats:
    every_N = np.arange(len(truth_N))

    def loss_and_gradient(powers: Floats) -> tuple[float, Floats]:
        sums_NK = np.tensordot(powers, log_probability_ENK, axes=1)
        logs_NK = sums_NK - logsumexp(sums_NK, axis=-1, keepdims=True)
        expected_EN = (np.exp(logs_NK) * log_probability_ENK).sum(axis=-1)
        gradient = (expected_EN - log_probability_ENK[:, every_N, truth_N]).mean(axis=1)
        return float(-logs_NK[every_N, truth_N].mean()), gradient

    exits = len(log_probability_ENK)
    start = np.full(exits, 1.0 / exits)
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * exits)
    return np.asarray(found.x)


def leave_patiently(label_EN: Integers, agreeing: int) -> Integers:
    """Return the exit where so many exits in a row agree for the first time, else the final one (PABEE)."""
    exits, rows = label_EN.shape
    exit_N, run_N = np.full(rows, exits - 1), np.zeros(rows, dtype=np.int64)
    waits_N = np.ones(rows, dtype=bool)
    for number in range(exits):
        same_N = label_EN[number] == label_EN[max(number - 1, 0)]
        run_N = np.where(same_N, run_N, 0) + 1
        leaves_N = waits_N & (run_N >= agreeing)
        exit_N[leaves_N] = number
        waits_N &= ~leaves_N
    return exit_N


def _read(
    probability_ENK: Floats, log_probability_ENK: Floats, truth_N: Integers, score_EN: Floats | None = None
) -> RuleReadings:
    """Read labels, and scores unless given, off probabilities; log_probability_ENK are the exits' own."""
    return RuleReadings(
        confidence_EN=probability_ENK.max(axis=-1) if score_EN is None else score_EN,
        label_EN=probability_ENK.argmax(axis=-1),
        truth_N=truth_N,
        final_N=log_probability_ENK[-1].argmax(axis=-1),
    )


def _most_confident(log_probability_ENK: Floats, truth_N: Integers) -> RuleReadings:
    """As the plain rule, but what clears nowhere gets the label of its most confident exit (Shallow-Deep)."""
    plain = _read(np.exp(log_probability_ENK), log_probability_ENK, truth_N)
    label_EN = plain.label_EN.copy()
    label_EN[-1] = plain.label_EN[plain.confidence_EN.argmax(axis=0), np.arange(plain.rows)]
    return RuleReadings(plain.confidence_EN, label_EN, truth_N, plain.final_N)


def _combined(name: str, combine: Callable[[Floats], Floats]) -> dict[str, Reader]:
    """Return both forms of a rule that combines the exits so far: the final exit alone, or combined."""

    def to_the_end(log_probability_ENK: Floats, truth_N: Integers) -> RuleReadings:
        return _read(combine(log_probability_ENK), log_probability_ENK, truth_N)

    def early(log_probability_ENK: Floats, truth_N: Integers) -> RuleReadings:
        combined = to_the_end(log_probability_ENK, truth_N)
        label_EN = np.concatenate([combined.label_EN[:-1], combined.final_N[np.newaxis]])
        return RuleReadings(combined.confidence_EN, label_EN, truth_N, combined.final_N)

    return {name: early, name + TO_THE_END: to_the_end}
