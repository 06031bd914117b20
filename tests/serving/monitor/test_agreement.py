"""The test of a certificate: its level, its power, repeated rows and single callers."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom

from serving.monitor.agreement import (
    INITIAL_WEIGHT,
    LARGEST,
    LEAST_DIFFERING,
    LONE_CALLER_ROWS,
    MOST_CALLERS,
    REMEMBERED_ROWS,
    STAKES,
    AgreementTest,
    Power,
    Verdict,
)

EPSILON, DELTA = 0.02, 0.05


def after(answers: list[bool], epsilon: float = EPSILON, delta: float = DELTA) -> AgreementTest:
    """Count different rows of one caller."""
    test = AgreementTest(epsilon, delta)
    for number, agreed in enumerate(answers):
        test.count(agreed=agreed, row=str(number).encode())
    return test


def disagree(test: AgreementTest, caller: str, rows: int, first: int = 0) -> None:
    """Count different rows of one caller that all disagree."""
    for number in range(first, first + rows):
        test.count(agreed=False, row=f"{caller} {number}".encode(), caller=caller)


def test_without_rows_there_is_no_evidence() -> None:
    assert AgreementTest(EPSILON, DELTA).evidence == pytest.approx(1.0)


def not_started(rows: int) -> float:
    return (1 - INITIAL_WEIGHT) * float(np.log(3) / np.log(rows + 3))


def by_definition(answers: Sequence[bool | None]) -> float:
    """Compute E as the weighted sum of all products. None stands for a row that is left out."""
    weights = [not_started(row) - not_started(row + 1) for row in range(len(answers))]
    if answers:
        weights[0] += INITIAL_WEIGHT
    evidence = not_started(len(answers)) if answers else 1.0
    for start, weight in enumerate(weights):
        counted = np.array([not agreed for agreed in answers[start:] if agreed is not None])
        for stake in STAKES:
            evidence += weight / len(STAKES) * float(np.prod(1 + stake / EPSILON * (counted - EPSILON)))
    return evidence


@given(st.lists(st.booleans(), max_size=40))
def test_the_evidence_is_the_weighted_sum_of_products_that_start_at_every_row(answers: list[bool]) -> None:
    assume(all(by_definition(answers[:rows]) < LARGEST / DELTA for rows in range(len(answers) + 1)))

    assert after(answers).evidence == pytest.approx(by_definition(answers))


def test_a_row_at_the_stated_risk_changes_no_evidence_on_average() -> None:
    disagrees, agrees = after([False]).evidence, after([True]).evidence

    assert EPSILON * disagrees + (1 - EPSILON) * agrees == pytest.approx(1.0)


def test_a_certificate_is_broken_once_the_evidence_reaches_one_over_delta() -> None:
    answers = [False] * (LEAST_DIFFERING - 1) + [True] * 200
    while after(answers).verdict is not Verdict.BROKEN:
        answers.append(False)

    assert after(answers).evidence >= 1 / DELTA > after(answers[:-1]).evidence
    assert after(answers).disagreements > LEAST_DIFFERING


def test_fewer_different_rows_than_the_least_never_break_it() -> None:
    test = after([True] * LONE_CALLER_ROWS + [False] * (LEAST_DIFFERING - 1))
    assert test.evidence > 1 / DELTA
    before = test.verdict

    test.count(agreed=False, row=b"one more")

    assert (before, test.verdict) == (Verdict.HOLDS, Verdict.BROKEN)


def test_a_row_that_differed_before_counts_as_agreeing() -> None:
    test = after([True, False, True])
    for _ in range(1000):
        test.count(agreed=False, row=b"1")

    assert test.evidence == pytest.approx(after([True, False] + [True] * 1001).evidence)
    assert (test.rows, test.disagreements) == (1003, 1)


def test_a_repeated_row_is_remembered_longer_than_others() -> None:
    test = AgreementTest(EPSILON, DELTA)
    for number in range(REMEMBERED_ROWS + 10):
        test.count(agreed=False, row=b"again and again")
        test.count(agreed=False, row=str(number).encode())
    before = test.disagreements
    assert before == 1 + REMEMBERED_ROWS + 10

    test.count(agreed=False, row=b"again and again")
    assert test.disagreements == before
    test.count(agreed=False, row=b"0")
    assert test.disagreements == before + 1


def test_rows_of_one_among_several_callers_only_make_it_suspected() -> None:
    test = AgreementTest(EPSILON, DELTA)
    test.count(agreed=True, caller="good")

    disagree(test, "foreign", 500)

    assert (test.verdict, test.suspect) == (Verdict.SUSPECTED, "foreign")


def test_a_lone_callers_first_99_rows_only_make_it_suspected_and_the_hundredth_breaks_it() -> None:
    test = AgreementTest(EPSILON, DELTA)
    disagree(test, "lone", LEAST_DIFFERING - 1)
    assert test.verdict is Verdict.HOLDS

    for number in range(LEAST_DIFFERING - 1, 99):
        disagree(test, "lone", 1, first=number)
        assert (test.verdict, test.suspect) == (Verdict.SUSPECTED, "lone")

    disagree(test, "lone", 1, first=99)
    assert (test.verdict, test.suspect) == (Verdict.BROKEN, None)


def test_a_lone_callers_hundredth_row_breaks_it_though_it_agrees() -> None:
    test = AgreementTest(EPSILON, DELTA)
    disagree(test, "lone", 99)

    test.count(agreed=True, caller="lone")

    assert test.verdict is Verdict.BROKEN


@pytest.mark.parametrize("place", [0, 50, 99])
def test_a_second_callers_row_among_the_first_hundred_keeps_it_suspected(place: int) -> None:
    test = AgreementTest(EPSILON, DELTA)
    disagree(test, "first", place)
    test.count(agreed=True, caller="second")

    disagree(test, "first", 500, first=place)

    assert (test.verdict, test.suspect) == (Verdict.SUSPECTED, "first")


def test_two_callers_that_disagree_break_it() -> None:
    test = AgreementTest(EPSILON, DELTA)
    disagree(test, "one", 50)
    disagree(test, "other", LEAST_DIFFERING - 1)
    assert (test.verdict, test.suspect) == (Verdict.SUSPECTED, "one")

    disagree(test, "other", 1, first=LEAST_DIFFERING - 1)

    assert test.verdict is Verdict.BROKEN


def test_a_suspicion_ends_once_the_others_have_agreed_for_long() -> None:
    test = AgreementTest(EPSILON, DELTA)
    test.count(agreed=True, caller="good")
    disagree(test, "foreign", 10_000)
    assert test.verdict is Verdict.SUSPECTED

    rows = 0
    while test.verdict is Verdict.SUSPECTED:
        test.count(agreed=True, caller="good")
        rows += 1

    assert rows < 2_000
    assert test.verdict is Verdict.HOLDS


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=40))
def test_without_a_caller_the_evidence_is_that_of_the_others_from_its_first_disagreement_on(
    rows: list[tuple[bool, str]],
) -> None:
    test = AgreementTest(EPSILON, DELTA)
    answers: list[bool | None] = []
    without: dict[str, list[bool | None]] = {}
    for number, (agreed, caller) in enumerate(rows):
        test.count(agreed=agreed, row=str(number).encode(), caller=caller)
        if not agreed and caller not in without:
            without[caller] = list(answers)
        answers.append(agreed)
        for other, those in without.items():
            those.append(None if other == caller else agreed)
        assume(by_definition(answers) < LARGEST / DELTA)

    expected = {caller: pytest.approx(by_definition(those)) for caller, those in without.items()}
    assert test.evidence_without() == expected


def test_with_more_callers_than_are_kept_the_one_that_disagrees_most_is_left_out() -> None:
    test = AgreementTest(EPSILON, DELTA)
    for number in range(3 * MOST_CALLERS):
        disagree(test, f"rarely {number}", 1)
        for _ in range(60):
            test.count(agreed=True, caller="good")

    disagree(test, "foreign", 500)

    assert (test.verdict, test.suspect) == (Verdict.SUSPECTED, "foreign")


def test_a_caller_that_disagrees_often_is_left_out_however_many_others_come_between() -> None:
    test = AgreementTest(EPSILON, DELTA)
    for number in range(MOST_CALLERS):
        disagree(test, f"early {number}", 3)

    for number in range(200):
        disagree(test, "foreign", 1, first=number)
        disagree(test, f"late {number}", 1)

    assert "foreign" in test.evidence_without()


def test_callers_that_disagreed_first_do_not_keep_the_others_rows_from_counting() -> None:
    test = AgreementTest(EPSILON, DELTA)
    for number in range(2 * MOST_CALLERS):
        disagree(test, f"early {number}", 1)
        for _ in range(60):
            test.count(agreed=True, caller="good")
    before = test.verdict

    for number in range(2 * MOST_CALLERS):
        disagree(test, f"late {number}", 1)

    assert (before, test.verdict) == (Verdict.HOLDS, Verdict.BROKEN)


@pytest.mark.parametrize("epsilon", [0.01, 0.03])
def test_while_a_certificate_holds_at_most_a_delta_share_is_ever_revoked(epsilon: float) -> None:
    simulated = Power.of(epsilon, DELTA, epsilon, 4_000, servers=1_000)

    assert 0 < simulated.chance(4_000) * 1_000 <= binom.ppf(0.999, 1_000, DELTA)


def test_rows_well_within_the_stated_risk_revoke_almost_nothing() -> None:
    assert Power.of(EPSILON, DELTA, EPSILON / 2, 4_000, servers=1_000).chance(4_000) <= 0.01


@pytest.mark.parametrize(("risk", "published_median"), [(0.03, 1_450), (0.05, 212), (0.10, 100)])
def test_the_power_is_that_of_the_published_simulation(risk: float, published_median: int) -> None:
    median = Power.of(EPSILON, DELTA, risk, 4_000).rows_for(0.5)

    assert median == pytest.approx(published_median, rel=0.1)


def test_a_certificate_that_breaks_late_is_still_noticed() -> None:
    late = Power.of(EPSILON, DELTA, 0.10, 1_000, before=(20_000, 0.01), servers=100)

    assert (late.revoked_after > 0).all()
    assert (late.rows_for(0.95) or 1_000) < 500


@pytest.mark.parametrize("risk", [0.04, 0.3])
def test_the_simulated_servers_count_as_a_server_does(risk: float) -> None:
    generator = np.random.default_rng(7)
    differs = generator.random(400) < risk
    test = AgreementTest(EPSILON, DELTA)
    row = 0
    while test.verdict is not Verdict.BROKEN:
        test.count(agreed=not differs[row], row=str(row).encode())
        row += 1

    simulated = Power.of(EPSILON, DELTA, risk, 400, servers=1, seed=7)

    assert simulated.revoked_after.tolist() == [row]


def test_what_is_never_reached_takes_no_number_of_rows() -> None:
    assert Power.of(EPSILON, DELTA, EPSILON, 200).rows_for(0.5) is None
