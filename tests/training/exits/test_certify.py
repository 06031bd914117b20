import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tests.training.exits.split_of_readings import COST, drawn_readings
from training.exits.certify import METHOD, Certified, allowed_disagreements, certify, sequence
from training.exits.evaluate import Readings
from training.exits.thresholds import Candidate, pareto_path, target_row

EXACT = Candidate((None,), 0.0, 0.0, 1.0)


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
def test_what_n_rows_allow_is_the_published_table(n: int, epsilon: float, allowed: int) -> None:
    assert allowed_disagreements(n, epsilon, 0.05) == allowed


@settings(deadline=None)
@given(st.integers(1, 500), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_one_disagreement_more_than_allowed_would_not_certify(n: int, epsilon: float, delta: float) -> None:
    allowed = allowed_disagreements(n, epsilon, delta)

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
def test_an_impossible_promise_is_refused(n: int, epsilon: float, delta: float, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        allowed_disagreements(n, epsilon, delta)


# A population of known risk. A row is as easy as its confidence at exit 0, uniform on [0, 1]; with
# confidence c its early answer differs from the final one with chance 0.2·(1 - c). So the risk of
# threshold t is the integral from t to 1 of 0.2·(1 - c), which is 0.1·(1 - t)².
THRESHOLDS = np.round(np.linspace(0.95, 0.2, 16), 2)
EPSILON, DELTA, ROWS, DRAWS = 0.02, 0.1, 400, 1_000


def true_risk(candidate: Candidate) -> float:
    (threshold,) = candidate.thresholds
    return 0.0 if threshold is None else 0.1 * (1 - threshold) ** 2


def known_path(thresholds: np.ndarray) -> list[Candidate]:
    rows = [Candidate((float(t),), 0.0, 0.1 * (1 - float(t)) ** 2, 0.3 + 0.7 * float(t)) for t in thresholds]
    return [EXACT, *rows]


def draw(generator: np.random.Generator) -> Readings:
    confidence_N = generator.random(ROWS)
    differs_N = generator.random(ROWS) < 0.2 * (1 - confidence_N)
    return Readings(
        np.stack([confidence_N, np.ones(ROWS)]),
        np.stack([differs_N.astype(np.int64), np.zeros(ROWS, np.int64)]),
        np.zeros(ROWS, np.int64),
    )


def draws_of(path: list[Candidate]) -> list[Certified]:
    generator = np.random.default_rng(20)
    return [
        certify(path, path[-1], draw(generator), (30, 100), epsilon=EPSILON, delta=DELTA)
        for _ in range(DRAWS)
    ]


def share_of_violations(taken: list[Candidate]) -> float:
    return float(np.mean([true_risk(candidate) > EPSILON for candidate in taken]))


def test_over_a_thousand_draws_the_true_risk_exceeds_epsilon_in_at_most_a_delta_share() -> None:
    certified = draws_of(known_path(THRESHOLDS))

    violations = share_of_violations([each.candidate for each in certified])
    highest_by_chance = float(binom.ppf(0.999, DRAWS, DELTA)) / DRAWS
    assert 0 < violations <= highest_by_chance
    assert np.mean([each.candidate.is_exact for each in certified]) < 0.05


def test_taking_the_row_where_the_walk_stopped_breaks_the_promise() -> None:
    certified = draws_of(known_path(THRESHOLDS[::4]))  # on a coarse grid

    stopped_at = [each.walked[-1].candidate for each in certified]
    assert share_of_violations(stopped_at) > 0.5
    assert share_of_violations([each.candidate for each in certified]) <= DELTA


def test_trusting_the_share_seen_breaks_the_promise() -> None:
    generator = np.random.default_rng(21)
    path = known_path(THRESHOLDS)
    taken = []
    for _ in range(DRAWS):
        readings = draw(generator)
        differs_N = ~readings.agrees_EN[0]
        seen = [(differs_N & (readings.confidence_EN[0] >= t)).mean() for t in THRESHOLDS]
        taken.append(
            [EXACT, *(row for row, share in zip(path[1:], seen, strict=True) if share <= EPSILON)][-1]
        )

    assert share_of_violations(taken) > 2 * DELTA


def test_the_walk_tries_nothing_after_the_first_failure() -> None:
    path = known_path(np.array([0.9, 0.3, 0.8]))
    path[2] = Candidate(path[2].thresholds, 0.0, 0.0, 0.95)  # it looked harmless on tune

    certified = certify(
        path, path[3], draw(np.random.default_rng(1)), (30, 100), epsilon=EPSILON, delta=DELTA
    )

    assert [each.candidate for each in certified.walked] == [path[2]]
    assert certified.candidate == EXACT
    assert certified.certificate is None


def test_a_certificate_says_what_was_seen_and_how() -> None:
    path = known_path(THRESHOLDS)

    certified = certify(
        path, path[-1], draw(np.random.default_rng(6)), (30, 100), epsilon=EPSILON, delta=DELTA
    )

    certificate = certified.certificate
    assert certificate is not None
    assert (certificate.epsilon, certificate.delta, certificate.n) == (EPSILON, DELTA, ROWS)
    assert certificate.method == METHOD
    taken = next(each for each in certified.walked if each.candidate == certified.candidate)
    assert certificate.disagreements == taken.outcome.disagreements
    assert all(each.p_value <= DELTA for each in certified.walked[:-1])


def test_the_fastest_certified_row_is_taken_even_where_it_is_not_the_last() -> None:
    slow_but_less_sure = Candidate((0.97,), 0.0, 0.01, 0.9)
    fast_and_safe = Candidate((0.95,), 0.0, 0.0, 0.6)
    target = Candidate((0.9,), 0.0, 0.02, 0.6)

    certified = certify(
        [EXACT, slow_but_less_sure, fast_and_safe],
        target,
        draw(np.random.default_rng(2)),
        (30, 100),
        epsilon=0.1,
        delta=DELTA,
    )

    assert [each.candidate for each in certified.walked] == [fast_and_safe, slow_but_less_sure]
    assert certified.candidate == fast_and_safe


def test_a_target_of_full_depth_needs_no_certificate() -> None:
    certified = certify(
        known_path(THRESHOLDS), EXACT, draw(np.random.default_rng(3)), (30, 100), epsilon=0.5, delta=0.5
    )

    assert certified == Certified(EXACT, None, ())


def test_too_few_rows_to_promise_anything_equal_full_depth() -> None:
    path = known_path(THRESHOLDS)

    certified = certify(path, path[-1], draw(np.random.default_rng(4)), (30, 100), epsilon=1e-4, delta=DELTA)

    assert certified.candidate == EXACT
    assert len(certified.walked) == 1


def test_no_row_beyond_the_target_is_walked_and_the_safest_come_first() -> None:
    target = Candidate((0.5,), 0.002, 0.01, 0.4)
    beyond = [
        Candidate((0.4,), 0.001, 0.005, 0.3),  # cheaper
        Candidate((0.6,), 0.001, 0.02, 0.6),  # disagrees more
        Candidate((0.7,), 0.003, 0.01, 0.6),  # loses more accuracy
    ]
    harmless, harmless_but_costlier = Candidate((0.8,), 0.0, 0.0, 0.6), Candidate((0.9,), -0.001, 0.0, 0.8)

    assert sequence([EXACT, harmless, target, *beyond, harmless_but_costlier], target) == (
        harmless_but_costlier,
        harmless,
        target,
    )


def test_a_target_more_often_right_than_full_depth_still_lets_harmless_rows_be_tried() -> None:
    lucky = Candidate((0.5,), -0.005, 0.01, 0.4)
    harmless = Candidate((0.8,), 0.0, 0.0, 0.6)

    assert sequence([EXACT, harmless, lucky], lucky) == (harmless, lucky)


def test_a_path_that_does_not_begin_at_full_depth_is_refused() -> None:
    path = known_path(THRESHOLDS)[1:]

    with pytest.raises(ValueError, match=r"row 0 to disable every exit, got thresholds \(0.95,\)"):
        certify(path, path[0], draw(np.random.default_rng(5)), (30, 100), epsilon=0.1, delta=0.1)


def test_from_a_searched_path_to_a_certified_row_no_figure_passes_the_target() -> None:
    path = pareto_path(drawn_readings(0, 600), COST)
    target = target_row(path, 0.01)

    certified = certify(path, target, drawn_readings(1, 600), COST, epsilon=0.08, delta=0.05)

    assert certified.certificate is not None
    assert certified.candidate.multiply_adds_share >= target.multiply_adds_share
    assert certified.candidate.disagreement <= target.disagreement
