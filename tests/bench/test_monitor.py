"""Tests for the simulation of the live test: the server's own test, the traffic, the page."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from bench.monitor import (
    ATTACK,
    CALLERS,
    DELTA,
    DIFFERENT,
    EPSILONS,
    FLOODS,
    INDEPENDENT,
    LARGE_ATTACKER,
    LONE_ATTACKER,
    ONE_PICTURE,
    ONE_PICTURE_ALL,
    PUBLICATION,
    REPEATS,
    REPEATS_DROPPED,
    ROWS,
    MonitorRecord,
    RowStream,
    Scenario,
    ScenarioResult,
    ServerResult,
    run_server,
    sampled_rows,
    scenarios,
    simulate,
)
from serving.monitor.agreement import LONE_CALLER_ROWS, AgreementTest, Verdict

SECURITY = PUBLICATION.page.parent / "security.md"
TRAFFIC = Scenario(
    ATTACK,
    "two honest callers and an attacker",
    epsilon=0.02,
    servers=2,
    streams=(
        RowStream(0.8, 0.1, range(2)),
        RowStream(0.2, 0.5, range(2, 3), pictures=4, is_attacker=True),
    ),
    rows=2_000,
)


@pytest.fixture(scope="module")
def record() -> MonitorRecord:
    return PUBLICATION.read()


def find(record: MonitorRecord, name: str, epsilon: float, risk: float | None = None) -> ScenarioResult:
    key = (name, epsilon, risk)
    return next(each for each in record.results if (each.name, each.epsilon, each.risk) == key)


@pytest.mark.parametrize("good_rows", [0, 500])
@pytest.mark.parametrize("number", range(4))
def test_a_server_revokes_where_the_verdict_after_every_row_is_broken(number: int, good_rows: int) -> None:
    scenario = replace(TRAFFIC, good_rows=good_rows)
    test = AgreementTest(scenario.epsilon, DELTA)
    verdicts, attacks = [], []
    for row, caller, is_attackers in sampled_rows(scenario, number):
        test.count(agreed=row is None, row=row or b"", caller=caller)
        verdicts.append(test.verdict)
        attacks.append(is_attackers)
    revoked = verdicts.index(Verdict.BROKEN) + 1

    assert run_server(scenario, number) == ServerResult(
        revoked - good_rows, sum(attacks[good_rows:revoked]), Verdict.SUSPECTED in verdicts[:revoked]
    )


def test_a_server_of_a_lone_caller_revokes_at_the_hundredth_row_though_that_agrees() -> None:
    scenario = replace(TRAFFIC, streams=(RowStream(1, 0.3),))
    hundredth, _, _ = list(sampled_rows(scenario, 0))[LONE_CALLER_ROWS - 1]
    assert hundredth is None

    assert run_server(scenario, 0).revoked_after == LONE_CALLER_ROWS


def test_sampled_rows_are_as_described() -> None:
    rows = list(sampled_rows(replace(TRAFFIC, rows=40_000), 0))
    by_caller = Counter(caller for _, caller, _ in rows)
    differing = Counter(caller for row, caller, _ in rows if row is not None)
    pictures = {row for row, _, is_attackers in rows if is_attackers and row is not None}
    honest = [row for row, _, is_attackers in rows if not is_attackers and row is not None]

    assert [by_caller[name] / 40_000 for name in "012"] == pytest.approx([0.4, 0.4, 0.2], abs=0.01)
    assert differing["0"] / by_caller["0"] == pytest.approx(0.1, abs=0.01)
    assert differing["2"] / by_caller["2"] == pytest.approx(0.5, abs=0.03)
    assert len(pictures) == 4
    assert len(set(honest)) == len(honest)
    assert pictures.isdisjoint(honest)


def test_rows_before_a_certificate_breaks_differ_half_as_often_as_it_allows() -> None:
    rows = list(sampled_rows(replace(TRAFFIC, rows=1, good_rows=40_000), 0))

    assert len(rows) == 40_001
    assert np.mean([row is not None for row, _, _ in rows]) == pytest.approx(0.01, abs=0.002)


def test_rows_of_a_run_are_of_one_caller() -> None:
    callers = [caller for _, caller, _ in sampled_rows(replace(TRAFFIC, run_rows=20), 0)]

    assert all(len(set(callers[first : first + 20])) == 1 for first in range(0, len(callers), 20))
    assert set(callers) == set("012")


def test_every_server_has_its_own_rows_and_the_same_again() -> None:
    first, again, other = (list(sampled_rows(TRAFFIC, number)) for number in (0, 0, 1))

    assert first == again
    assert first != other


def test_a_median_is_none_if_fewer_than_half_of_the_servers_revoke() -> None:
    servers = [
        ServerResult(10, 1, False),
        ServerResult(30, 3, True),
        ServerResult(None, 9, True),
        ServerResult(None, 9, False),
    ]
    result = ScenarioResult.of(TRAFFIC, servers)

    assert (result.revoked, result.suspected) == (2, 2)
    assert (result.median_rows, result.median_attacker_rows) == (30, 3)
    assert result.most_rows is None
    assert ScenarioResult.of(TRAFFIC, servers[1:]).median_rows is None


def test_all_servers_of_all_scenarios_are_counted() -> None:
    chosen = [replace(TRAFFIC, servers=12), replace(TRAFFIC, name="another", servers=3)]
    expected = [
        ScenarioResult.of(each, [run_server(each, n) for n in range(each.servers)]) for each in chosen
    ]

    assert list(simulate(chosen).results) == expected


def test_the_page_has_every_traffic_of_the_record(record: MonitorRecord) -> None:
    page = PUBLICATION.page.read_text()

    assert all(f"| {each.name} |" in page for each in record.results)


def test_the_record_has_every_scenario(record: MonitorRecord) -> None:
    expected = [(each.table, each.name, each.epsilon, each.risk, each.servers) for each in scenarios()]

    assert [
        (each.table, each.name, each.epsilon, each.risk, each.servers) for each in record.results
    ] == expected


@pytest.mark.parametrize("name", [LONE_ATTACKER, DIFFERENT[10], CALLERS[1]])
def test_the_record_is_of_the_servers_present_test(record: MonitorRecord, name: str) -> None:
    expected = next(each for each in record.results if each.name == name and each.risk in (None, 0.1))
    (scenario,) = (
        each
        for each in scenarios()
        if (each.name, each.epsilon, each.risk) == (name, expected.epsilon, expected.risk)
    )
    servers = [run_server(scenario, number) for number in range(expected.servers)]

    assert ScenarioResult.of(scenario, servers) == expected, "run: python -m bench.monitor"


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_a_certificate_that_holds_is_revoked_in_at_most_a_share_delta(
    record: MonitorRecord, epsilon: float
) -> None:
    independent = find(record, INDEPENDENT, epsilon)

    assert independent.revoked <= binom.ppf(0.999, independent.servers, DELTA)
    assert find(record, REPEATS, epsilon).revoked <= independent.revoked
    assert find(record, REPEATS_DROPPED, epsilon).revoked == independent.servers


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_one_picture_or_one_of_several_callers_revokes_nothing_and_two_addresses_do(
    record: MonitorRecord, epsilon: float
) -> None:
    assert find(record, ONE_PICTURE_ALL, epsilon).revoked == 0
    assert all(find(record, name, epsilon).revoked == 0 for name in ONE_PICTURE.values())
    one, two = (find(record, DIFFERENT[count], epsilon) for count in (1, 2))
    assert (one.revoked, one.suspected) == (0, one.servers)
    assert two.revoked == two.servers
    assert find(record, LONE_ATTACKER, epsilon).median_rows == LONE_CALLER_ROWS


def test_the_security_page_has_the_records_figures(record: MonitorRecord) -> None:
    names = (DIFFERENT[1], DIFFERENT[2], DIFFERENT[10], ONE_PICTURE[1])
    one, two, ten, picture = (find(record, name, 0.01) for name in names)
    large, half, most = (find(record, name, 0.01) for name in (LARGE_ATTACKER, FLOODS[0.5], FLOODS[0.9]))
    undisturbed = find(record, CALLERS[10], 0.01, 0.05)
    assert two.median_rows is not None
    assert two.median_attacker_rows is not None
    page = SECURITY.read_text()
    for figure in (
        f"revokes {picture.revoked} of {two.servers} servers. This holds for 1, 10 and 100",
        f"revokes {one.revoked} of {two.servers} servers. All {two.servers} suspect it",
        f"revoke all {two.revoked} servers. Half of the servers revoke within {two.median_rows} sampled "
        f"rows, of which the attacker sent {two.median_attacker_rows}.",
        f"sends {100 * two.median_attacker_rows:,} rows for this. It takes {two.median_rows / 10:.0f} s",
        f"Ten addresses need {ten.median_attacker_rows} sampled rows",
        f"beside honest callers revokes {large.revoked} of {large.servers} servers",
        f"revocation from {undisturbed.median_rows} to {half.median_rows} sampled rows",
        f"prevents revocation: {most.revoked} of {most.servers} servers",
        f"epsilon 1 % and {ROWS:,} sampled rows",
    ):
        assert figure in page
