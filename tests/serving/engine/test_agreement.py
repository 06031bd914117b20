import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from serving.engine.agreement import STAKES, AgreementTest, Power

EPSILON, DELTA = 0.02, 0.05


def after(answers: list[bool], epsilon: float = EPSILON, delta: float = DELTA) -> AgreementTest:
    test = AgreementTest(epsilon, delta)
    for agreed in answers:
        test.count(agreed=agreed)
    return test


def test_nothing_seen_is_no_evidence() -> None:
    assert AgreementTest(EPSILON, DELTA).evidence == pytest.approx(1.0)


@given(st.lists(st.booleans(), max_size=60))
def test_the_evidence_is_the_mean_over_stakes_of_the_product_over_rows(answers: list[bool]) -> None:
    owned = [
        np.prod([1 + stake / EPSILON * ((not agreed) - EPSILON) for agreed in answers]) for stake in STAKES
    ]

    assert after(answers).evidence == pytest.approx(np.mean(owned))


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 20))
def test_agreements_counted_ahead_of_their_turn_only_lower_the_evidence(
    answers: list[bool], ahead: int
) -> None:
    assert after([True] * ahead + answers).evidence <= after(answers).evidence


def test_an_expected_row_neither_wins_nor_loses() -> None:
    disagrees, agrees = after([False]).evidence, after([True]).evidence

    assert EPSILON * disagrees + (1 - EPSILON) * agrees == pytest.approx(1.0)


def test_a_certificate_is_broken_once_the_evidence_reaches_one_over_delta() -> None:
    answers: list[bool] = []
    while not after(answers).broken:
        answers.append(False)

    assert after(answers).evidence >= 1 / DELTA > after(answers[:-1]).evidence


def times_of_revocation(risk: float, rows: int, draws: int) -> np.ndarray:
    """Play the test of many servers side by side; rows + 1 where it never breaks."""
    generator = np.random.default_rng(3)
    broken_after = np.full(draws, rows + 1)
    differ = np.zeros(draws, dtype=np.int64)
    agrees, differs = np.log1p(-STAKES), np.log1p(STAKES / EPSILON - STAKES)
    for row in range(1, rows + 1):
        differ += generator.random(draws) < risk
        owned = np.outer(row - differ, agrees) + np.outer(differ, differs)
        evidence = np.logaddexp.reduce(owned, axis=1) - np.log(len(STAKES))
        broken_after[(evidence >= -np.log(DELTA)) & (broken_after > rows)] = row
    return broken_after


def test_while_the_promise_holds_at_most_a_delta_share_is_ever_revoked() -> None:
    revoked = int((times_of_revocation(EPSILON, 2_000, 1_000) <= 2_000).sum())

    assert 0 < revoked <= binom.ppf(0.999, 1_000, DELTA)


@pytest.mark.parametrize(("risk", "published_median"), [(0.03, 1_615), (0.05, 212), (0.10, 42)])
def test_the_power_is_that_of_the_published_simulation(risk: float, published_median: int) -> None:
    median = Power.of(EPSILON, DELTA, risk, 4_000).rows_for(0.5)

    assert median == pytest.approx(published_median, rel=0.08)


def test_the_power_is_what_many_servers_show() -> None:
    times = times_of_revocation(0.06, 600, 2_000)
    expected_N = Power.of(EPSILON, DELTA, 0.06, 600).revoked_N

    for rows in (50, 150, 600):
        assert np.mean(times <= rows) == pytest.approx(expected_N[rows - 1], abs=0.04)


def test_the_chance_of_a_false_revocation_stays_below_delta_however_long_one_looks() -> None:
    revoked_N = Power.of(EPSILON, DELTA, EPSILON, 10_000).revoked_N

    assert 0 < revoked_N[-1] < DELTA
    assert Power.of(EPSILON, DELTA, EPSILON, 1_000).rows_for(0.5) is None
