import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from serving.monitor.agreement import STAKES, STARTED_AT_ONCE, AgreementTest, Power

EPSILON, DELTA = 0.02, 0.05


def after(answers: list[bool], epsilon: float = EPSILON, delta: float = DELTA) -> AgreementTest:
    test = AgreementTest(epsilon, delta)
    for agreed in answers:
        test.count(agreed=agreed)
    return test


def test_nothing_seen_is_no_evidence() -> None:
    assert AgreementTest(EPSILON, DELTA).evidence == pytest.approx(1.0)


def kept(rows: int) -> float:
    return (1 - STARTED_AT_ONCE) * float(np.log(3) / np.log(rows + 3))


@given(st.lists(st.booleans(), max_size=40))
def test_the_evidence_is_what_purses_laid_at_every_row_own_together(answers: list[bool]) -> None:
    laid = [kept(row) - kept(row + 1) for row in range(len(answers))]
    if answers:
        laid[0] += STARTED_AT_ONCE
    owned = kept(len(answers)) if answers else 1.0
    for start, purse in enumerate(laid):
        for stake in STAKES:
            gains = [1 + stake / EPSILON * ((not agreed) - EPSILON) for agreed in answers[start:]]
            owned += purse / len(STAKES) * float(np.prod(gains))

    assert after(answers).evidence == pytest.approx(owned)


def test_an_expected_row_neither_wins_nor_loses() -> None:
    disagrees, agrees = after([False]).evidence, after([True]).evidence

    assert EPSILON * disagrees + (1 - EPSILON) * agrees == pytest.approx(1.0)


def test_a_certificate_is_broken_once_the_evidence_reaches_one_over_delta() -> None:
    answers: list[bool] = []
    while not after(answers).broken:
        answers.append(False)

    assert after(answers).evidence >= 1 / DELTA > after(answers[:-1]).evidence


@pytest.mark.parametrize("epsilon", [0.01, 0.03])
def test_while_the_promise_holds_at_most_a_delta_share_is_ever_revoked(epsilon: float) -> None:
    played = Power.of(epsilon, DELTA, epsilon, 4_000, servers=1_000)

    assert 0 < played.chance(4_000) * 1_000 <= binom.ppf(0.999, 1_000, DELTA)


def test_rows_well_within_the_promise_revoke_almost_nothing() -> None:
    assert Power.of(EPSILON, DELTA, EPSILON / 2, 4_000, servers=1_000).chance(4_000) <= 0.01


@pytest.mark.parametrize(("risk", "published_median"), [(0.03, 1_615), (0.05, 212), (0.10, 42)])
def test_the_power_is_that_of_the_published_simulation(risk: float, published_median: int) -> None:
    median = Power.of(EPSILON, DELTA, risk, 4_000).rows_for(0.5)

    assert median == pytest.approx(published_median, rel=0.1)


def test_a_promise_that_breaks_late_is_still_noticed() -> None:
    late = Power.of(EPSILON, DELTA, 0.10, 1_000, before=(20_000, 0.01), servers=100)

    assert (late.revoked_after > 0).all()
    assert (late.rows_for(0.95) or 1_000) < 500


def test_the_servers_played_count_as_a_server_does() -> None:
    generator = np.random.default_rng(7)
    differs = generator.random(400) < 0.08
    test = AgreementTest(EPSILON, DELTA)
    row = 0
    while not test.broken:
        test.count(agreed=not differs[row])
        row += 1

    played = Power.of(EPSILON, DELTA, 0.08, 400, servers=1, seed=7)

    assert played.revoked_after.tolist() == [row]


def test_what_is_never_reached_takes_no_number_of_rows() -> None:
    assert Power.of(EPSILON, DELTA, EPSILON, 200).rows_for(0.5) is None
