import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from serving.repository.manifest import Risk
from tests.training.exits.candidates import candidate_with
from tests.training.exits.split_of_readings import COST, sampled_readings
from training.exits.certify import (
    METHOD,
    METHOD_OF_ONE_CANDIDATE,
    CertifiedThresholds,
    allowed_losses,
    certify,
    certify_one,
    fewest_rows,
    sequence,
    upper_bound,
)
from training.exits.evaluate import EvaluationCounts, Readings, outcome
from training.exits.intervals import STEPS
from training.exits.thresholds import Candidate, pareto_path, target_candidate

EXACT = candidate_with((None,), 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("n", "epsilon", "allowed"),
    [
        (200, 0.01, -1),
        (200, 0.02, 0),
        (200, 0.03, 1),
        (200, 0.05, 4),
        (5_000, 0.003, 8),
        (5_000, 0.01, 38),
        (5_000, 0.03, 129),
    ],
)
def test_allowed_losses_match_the_published_table(n: int, epsilon: float, allowed: int) -> None:
    assert allowed_losses(n, epsilon, 0.05) == allowed


@settings(deadline=None)
@given(st.integers(1, 500), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_one_more_loss_than_allowed_does_not_certify(n: int, epsilon: float, delta: float) -> None:
    allowed = allowed_losses(n, epsilon, delta)

    assert allowed == -1 or binom.cdf(allowed, n, epsilon) <= delta
    assert binom.cdf(allowed + 1, n, epsilon) > delta or allowed == n


@pytest.mark.parametrize(
    ("n", "epsilon", "delta", "complaint"),
    [
        (200, 0.0, 0.05, "epsilon: .* got 0.0"),
        (200, 1.0, 0.05, "epsilon: .* got 1.0"),
        (200, 0.03, 0.0, "delta: .* got 0.0"),
        (200, 0.03, float("nan"), "delta: .* got nan"),
        (0, 0.03, 0.05, "certify split: expected at least 1 row, got 0"),
    ],
)
def test_impossible_parameters_are_refused(n: int, epsilon: float, delta: float, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        allowed_losses(n, epsilon, delta)


@pytest.mark.parametrize(("epsilon", "rows"), [(0.01, 299), (0.03, 99), (0.05, 59), (0.001, 2995)])
def test_fewest_rows_is_the_smallest_n_that_allows_0_losses(epsilon: float, rows: int) -> None:
    assert fewest_rows(epsilon, 0.05) == rows
    assert allowed_losses(rows, epsilon, 0.05) == 0
    assert allowed_losses(rows - 1, epsilon, 0.05) == -1


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 300), st.floats(0.001, 0.999))
def test_the_upper_bound_is_the_smallest_epsilon_that_passes_the_test(
    n: int, losses: int, delta: float
) -> None:
    losses = min(losses, n)

    bound = upper_bound(losses, n, delta)

    if losses == n:
        assert bound == 1
    else:
        assert binom.cdf(losses, n, bound) == pytest.approx(delta, rel=1e-6)
        assert binom.cdf(losses, n, bound * (1 - 1e-4)) > delta


@pytest.mark.parametrize("losses", [-1, 11])
def test_more_losses_than_rows_are_refused(losses: int) -> None:
    with pytest.raises(ValueError, match=f"losses: expected 0 to 10, got {losses}"):
        upper_bound(losses, 10, 0.05)


# A population of known risk. The confidence c at exit 0 is uniform on [0, 1]. The early answer differs from
# the final one with probability 0.2·(1 - c), and in half of these cases the final answer is right. So the
# disagreement of threshold t is the integral of 0.2·(1 - c) from t to 1, which is 0.1·(1 - t)². The harm is
# half of it.
THRESHOLDS = np.round(np.linspace(0.95, 0.2, 16), 2)
GRIDS = {"coarse": THRESHOLDS[::4], "middling": THRESHOLDS, "fine": np.linspace(0.95, 0.2, 46)}
DELTA, ROWS, DRAWS = 0.1, 400, 1_000
ENOUGH = 300
"""Draws to see a share that is twice as large as DELTA."""
EPSILON = {Risk.DISAGREEMENT: 0.02, Risk.HARM: 0.01}
HIGHEST_BY_CHANCE = float(binom.ppf(0.999, DRAWS, DELTA)) / DRAWS

both_risks = pytest.mark.parametrize("risk", list(Risk))


def true_risk(candidate: Candidate, risk: Risk) -> float:
    (threshold,) = candidate.thresholds
    differs = 0.0 if threshold is None else 0.1 * (1 - threshold) ** 2
    return differs / 2 if risk is Risk.HARM else differs


def known_path(thresholds: np.ndarray) -> list[Candidate]:
    rows = [
        candidate_with((t,), 0.0, 0.1 * (1 - t) ** 2, 0.3 + 0.7 * t, harm=0.05 * (1 - t) ** 2)
        for t in thresholds.tolist()
    ]
    return [EXACT, *rows]


def draw(generator: np.random.Generator) -> Readings:
    confidence_N = generator.random(ROWS)
    differs_N = generator.random(ROWS) < 0.2 * (1 - confidence_N)
    final_is_wrong_N = differs_N & (generator.random(ROWS) < 0.5)
    return Readings(
        confidence_EN=np.stack([confidence_N, np.ones(ROWS)]),
        label_EN=np.stack([differs_N.astype(np.int64), np.zeros(ROWS, np.int64)]),
        truth_N=final_is_wrong_N.astype(np.int64),
    )


@functools.cache
def draws(seed: int) -> list[Readings]:
    """Draw DRAWS samples of the population."""
    generator = np.random.default_rng(seed)
    return [draw(generator) for _ in range(DRAWS)]


@functools.cache
def certify_samples(grid: str, risk: Risk) -> list[CertifiedThresholds]:
    """Certify DRAWS samples of the population."""
    path = known_path(GRIDS[grid])
    return [
        certify(path, path[-1], readings, (30, 100), epsilon=EPSILON[risk], delta=DELTA, risk=risk)
        for readings in draws(20)
    ]


@functools.cache
def outcomes(grid: str, seed: int) -> list[list[EvaluationCounts]]:
    """Count the rows of ENOUGH samples under each candidate of a grid."""
    path = known_path(GRIDS[grid])
    return [[outcome(readings, row.rule, (30, 100)) for row in path] for readings in draws(seed)[:ENOUGH]]


def share_of_violations(taken: list[Candidate], risk: Risk) -> float:
    return float(np.mean([true_risk(candidate, risk) > EPSILON[risk] for candidate in taken]))


def test_the_population_has_its_known_risk() -> None:
    generator = np.random.default_rng(19)
    row = known_path(np.array([0.5]))[1]

    seen = [outcome(draw(generator), row.rule, (30, 100)) for _ in range(500)]

    for risk in Risk:
        share = sum(each.losses(risk) for each in seen) / sum(each.n for each in seen)
        assert share == pytest.approx(true_risk(row, risk), rel=0.05)


@both_risks
@pytest.mark.parametrize("grid", GRIDS)
def test_in_1000_samples_the_true_risk_exceeds_epsilon_at_most_at_rate_delta(grid: str, risk: Risk) -> None:
    certified = certify_samples(grid, risk)

    assert share_of_violations([each.candidate for each in certified], risk) <= HIGHEST_BY_CHANCE
    assert np.mean([each.candidate.is_exact for each in certified]) < 0.05
    assert {each.certificate.risk for each in certified if each.certificate} == {risk}


@both_risks
def test_a_fine_grid_comes_close_enough_to_epsilon_to_exceed_it_sometimes(risk: Risk) -> None:
    assert share_of_violations([each.candidate for each in certify_samples("fine", risk)], risk) > 0


@both_risks
def test_choosing_the_first_failed_candidate_violates_the_guarantee(risk: Risk) -> None:
    certified = certify_samples("coarse", risk)

    stopped_at = [each.tested[-1].candidate for each in certified]
    assert share_of_violations(stopped_at, risk) > 0.5


@both_risks
@pytest.mark.parametrize("grid", ["coarse", "fine"])
def test_trusting_the_observed_share_violates_the_guarantee(grid: str, risk: Risk) -> None:
    path = known_path(GRIDS[grid])
    taken = []
    for seen in outcomes(grid, 21):
        shares = [each.losses(risk) / ROWS for each in seen]
        taken.append([row for row, share in zip(path, shares, strict=True) if share <= EPSILON[risk]][-1])

    assert share_of_violations(taken, risk) > 2 * DELTA


@both_risks
def test_the_bound_of_a_candidate_chosen_on_tune_fails_at_most_at_rate_delta(risk: Risk) -> None:
    row = known_path(np.array([0.5]))[1]

    certified = [
        certify_one(row, readings, (30, 100), epsilon=None, delta=DELTA, risk=risk) for readings in draws(22)
    ]

    broken = [each.certificate.epsilon < true_risk(row, risk) for each in certified if each.certificate]
    assert len(broken) == DRAWS
    assert 0 < np.mean(broken) <= HIGHEST_BY_CHANCE


def test_the_bound_of_a_candidate_chosen_on_certify_fails_more_often() -> None:
    generator = np.random.default_rng(23)
    losses_of_ten_equal_rows = generator.binomial(ROWS, 0.02, (DRAWS, 10))

    bounds = [upper_bound(int(losses.min()), ROWS, DELTA) for losses in losses_of_ten_equal_rows]

    assert np.mean([bound < 0.02 for bound in bounds]) > 4 * DELTA


@both_risks
def test_certifying_the_observed_share_violates_the_guarantee(risk: Risk) -> None:
    row = known_path(np.array([0.5]))[1]

    seen = [outcome(readings, row.rule, (30, 100)).losses(risk) / ROWS for readings in draws(24)]

    assert np.mean([share < true_risk(row, risk) for share in seen]) > 4 * DELTA


def one_row(epsilon: float | None, seed: int = 6, risk: Risk = Risk.DISAGREEMENT) -> CertifiedThresholds:
    return certify_one(
        known_path(np.array([0.5]))[1],
        draw(np.random.default_rng(seed)),
        (30, 100),
        epsilon=epsilon,
        delta=DELTA,
        risk=risk,
    )


@both_risks
def test_the_smallest_epsilon_is_the_rounded_up_bound_with_its_method(risk: Risk) -> None:
    certificate = one_row(None, risk=risk).certificate

    assert certificate is not None
    losses = certificate.harms if risk is Risk.HARM else certificate.disagreements
    assert losses is not None
    bound = upper_bound(losses, ROWS, DELTA)
    assert bound <= certificate.epsilon < bound + 1 / STEPS
    assert (certificate.method, certificate.risk) == (METHOD_OF_ONE_CANDIDATE, risk)


def test_a_candidate_is_certified_at_the_given_epsilon_if_its_bound_is_not_larger() -> None:
    bound = upper_bound(one_row(None).tested[0].outcome.disagreements, ROWS, DELTA)

    asked = one_row(bound + 1e-6)
    assert asked.certificate is not None
    assert asked.certificate.epsilon == bound + 1e-6
    refused = one_row(bound - 1e-6)
    assert refused.certificate is None
    assert refused.is_uncertified


def test_a_candidate_with_only_losses_is_not_certified() -> None:
    readings = Readings(np.ones((2, 3)), np.array([[1, 1, 1], [0, 0, 0]]), np.zeros(3, np.int64))
    row = candidate_with((0.5,), 0.0, 0.0, 0.3)

    certified = certify_one(row, readings, (30, 100), epsilon=None, delta=DELTA, risk=Risk.HARM)

    assert certified.certificate is None


def test_nothing_is_tested_after_the_first_failure() -> None:
    path = known_path(np.array([0.9, 0.3, 0.8]))
    path[2] = candidate_with(path[2].thresholds, 0.0, 0.0, 0.95)  # without losses on tune

    certified = certify(
        path,
        path[3],
        draw(np.random.default_rng(1)),
        (30, 100),
        epsilon=0.02,
        delta=DELTA,
        risk=Risk.DISAGREEMENT,
    )

    assert [each.candidate for each in certified.tested] == [path[2]]
    assert certified.candidate == EXACT
    assert certified.certificate is None


def test_a_certificate_states_its_counts_and_method() -> None:
    path = known_path(THRESHOLDS)

    certified = certify(
        path,
        path[-1],
        draw(np.random.default_rng(6)),
        (30, 100),
        epsilon=0.02,
        delta=DELTA,
        risk=Risk.DISAGREEMENT,
    )

    certificate = certified.certificate
    assert certificate is not None
    assert (certificate.epsilon, certificate.delta, certificate.n) == (0.02, DELTA, ROWS)
    assert certificate.risk is Risk.DISAGREEMENT
    assert certificate.method == METHOD
    taken = next(each for each in certified.tested if each.candidate == certified.candidate)
    assert certificate.disagreements == taken.outcome.disagreements
    assert certificate.harms == taken.outcome.harms <= certificate.disagreements
    assert all(each.p_value <= DELTA for each in certified.tested[:-1])


def test_the_fastest_certified_candidate_is_returned_even_if_it_is_not_the_last() -> None:
    slow_but_less_sure = candidate_with((0.97,), 0.0, 0.01, 0.9)
    fast_and_safe = candidate_with((0.95,), 0.0, 0.0, 0.6)
    target = candidate_with((0.9,), 0.0, 0.02, 0.6)

    certified = certify(
        [EXACT, slow_but_less_sure, fast_and_safe],
        target,
        draw(np.random.default_rng(2)),
        (30, 100),
        epsilon=0.1,
        delta=DELTA,
        risk=Risk.DISAGREEMENT,
    )

    assert [each.candidate for each in certified.tested] == [fast_and_safe, slow_but_less_sure]
    assert certified.candidate == fast_and_safe


def test_a_target_of_full_depth_needs_no_certificate() -> None:
    certified = certify(
        known_path(THRESHOLDS),
        EXACT,
        draw(np.random.default_rng(3)),
        (30, 100),
        epsilon=0.5,
        delta=0.5,
        risk=Risk.HARM,
    )

    assert certified == CertifiedThresholds(EXACT, None, ())


def test_too_few_rows_to_certify_give_full_depth() -> None:
    path = known_path(THRESHOLDS)

    certified = certify(
        path,
        path[-1],
        draw(np.random.default_rng(4)),
        (30, 100),
        epsilon=1e-4,
        delta=DELTA,
        risk=Risk.DISAGREEMENT,
    )

    assert certified.candidate == EXACT
    assert len(certified.tested) == 1


def test_only_candidates_within_the_target_are_tested_safest_first() -> None:
    target = candidate_with((0.5,), 0.002, 0.01, 0.4)
    beyond = [
        candidate_with((0.4,), 0.001, 0.005, 0.3),  # cheaper
        candidate_with((0.6,), 0.001, 0.02, 0.6),  # disagrees more
        candidate_with((0.7,), 0.003, 0.01, 0.6),  # loses more accuracy
    ]
    harmless = candidate_with((0.8,), 0.0, 0.0, 0.6)
    harmless_but_costlier = candidate_with((0.9,), -0.001, 0.0, 0.8)

    assert sequence([EXACT, harmless, target, *beyond, harmless_but_costlier], target, Risk.DISAGREEMENT) == (
        harmless_but_costlier,
        harmless,
        target,
    )


def test_a_target_that_gains_accuracy_admits_candidates_without_a_loss() -> None:
    lucky = candidate_with((0.5,), -0.005, 0.01, 0.4)
    harmless = candidate_with((0.8,), 0.0, 0.0, 0.6)

    assert sequence([EXACT, harmless, lucky], lucky, Risk.DISAGREEMENT) == (harmless, lucky)


def test_a_path_that_does_not_start_at_full_depth_is_refused() -> None:
    path = known_path(THRESHOLDS)[1:]

    with pytest.raises(ValueError, match=r"first candidate to disable every exit, got thresholds \(0.95,\)"):
        certify(
            path, path[0], draw(np.random.default_rng(5)), (30, 100), epsilon=0.1, delta=0.1, risk=Risk.HARM
        )


def test_the_certified_candidate_of_a_searched_path_is_within_the_target() -> None:
    path = pareto_path(sampled_readings(0, 600), COST)
    target = target_candidate(path, 0.01)

    certified = certify(
        path, target, sampled_readings(1, 600), COST, epsilon=0.08, delta=0.05, risk=Risk.DISAGREEMENT
    )

    assert certified.certificate is not None
    assert certified.candidate.tune.multiply_adds_share >= target.tune.multiply_adds_share
    assert certified.candidate.tune.disagreement <= target.tune.disagreement


def test_by_harm_order_and_limit_use_the_harm() -> None:
    target = candidate_with((0.5,), 0.002, 0.01, 0.4, harm=0.004)
    differs_more_but_harms_less = candidate_with((0.6,), 0.0, 0.03, 0.5, harm=0.001)
    harms_more = candidate_with((0.7,), 0.0, 0.001, 0.6, harm=0.005)

    path = [EXACT, target, differs_more_but_harms_less, harms_more]

    assert sequence(path, target, Risk.HARM) == (differs_more_but_harms_less, target)
    assert sequence(path, target, Risk.DISAGREEMENT) == (harms_more, target)


def test_by_harm_a_row_whose_final_answer_is_wrong_is_no_loss() -> None:
    readings = Readings(
        np.array([[0.9] * 60, [1.0] * 60]), np.array([[1] * 60, [0] * 60]), np.ones(60, np.int64)
    )
    path = [EXACT, candidate_with((0.5,), -1.0, 1.0, 0.3)]

    by_harm = certify(path, path[1], readings, (30, 100), epsilon=0.05, delta=0.05, risk=Risk.HARM)
    by_disagreement = certify(
        path, path[1], readings, (30, 100), epsilon=0.05, delta=0.05, risk=Risk.DISAGREEMENT
    )

    assert by_harm.certificate is not None
    assert (by_harm.certificate.harms, by_harm.certificate.disagreements) == (0, 60)
    assert by_disagreement.candidate == EXACT
