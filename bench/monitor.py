"""Simulate the live test of a certificate: false revocations, rows before a revocation, and attacks.

    python -m bench.monitor

Every simulated server runs the test of the real server over sampled rows, with a seed of its own. Publishes
docs/certificates/monitor.json and the tables of docs/certificates.md, in 20 minutes on one core.
"""

import argparse
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import NamedTuple, Self

import numpy as np
from scipy.stats import binomtest
from tqdm import tqdm

from bench.publication import DOCS, Publication
from serving.monitor.agreement import LONE_CALLER_ROWS, AgreementTest, Verdict
from training.reporting.conditions import package_versions
from training.reporting.markdown import WrittenPart, header, row
from training.reporting.numerals import percent, percent_range
from training.reporting.record import RecordPart

SEED, DELTA = 0, 0.05
EPSILONS = (0.01, 0.03)
"""The epsilons of the released model's points `balanced` and `fast`."""
RISKS = (0.03, 0.05, 0.10)
ROWS, POWER_ROWS, GOOD_ROWS = 4_000, 8_000, 20_000
NULL, POWER, ATTACK = "null", "power", "attack"
SERVERS = {NULL: 400, POWER: 200, ATTACK: 200}
FEW_SERVERS = 50
"""Number of servers in a scenario that starts with good rows or has unequal callers."""
TEN = range(10)

INDEPENDENT = "independent rows, a share epsilon differs"
REPEATS = "95 % of rows repeat 20 agreeing pictures; epsilon / 2 differs"
REPEATS_DROPPED = "the same traffic, if repeated rows were dropped"
ONE_PICTURE_ALL = "one picture that differs is all rows"
CALLERS = {1: "one caller", 2: "two callers", 10: "ten callers"}
LONE_ATTACKER = "the attacker is the only caller"
LARGE_ATTACKER = "1 address sends 90 % of the rows, all different"
DIFFERENT = {count: f"{count} address{'es' * (count > 1)}, all rows different" for count in (1, 2, 10)}
ONE_PICTURE = {count: f"{count} address{'es' * (count > 1)}, one picture" for count in (1, 10, 100)}
FLOODS = {
    share: f"1 address sends {100 * share:.0f} % of the rows, which agree; 5 % of the honest rows differ"
    for share in (0.5, 0.9)
}


@dataclass(frozen=True)
class RowStream:
    """Rows of one kind, sent equally often by each of its callers."""

    share: float
    """Share of all rows."""
    risk: float
    """Share of its rows that differ: the early label is not the final exit's."""
    callers: range = range(1)
    pictures: int | None = None
    """Number of distinct rows among those that differ; None: all are distinct."""
    is_attacker: bool = False


Streams = tuple[RowStream, ...]


@dataclass(frozen=True)
class Scenario:
    """The traffic of a number of simulated servers. The seeds depend on table, name, epsilon and risk."""

    table: str
    name: str
    epsilon: float
    streams: Streams
    servers: int
    rows: int = ROWS
    good_rows: int = 0
    """Rows before the certificate breaks, of which epsilon / 2 differ. They are not counted."""
    run_rows: int = 1
    """Number of consecutive rows of one caller."""
    risk: float | None = None
    """The share that differs, in table POWER."""


def scenarios() -> Iterator[Scenario]:
    """Yield every scenario."""
    for epsilon in EPSILONS:
        for name, streams, options in null(epsilon):
            yield Scenario(NULL, name, epsilon, streams, SERVERS[NULL], **options)
        for risk in RISKS:
            if risk > epsilon:
                yield from power(epsilon, risk)
        for name, streams in attacks(epsilon):
            yield Scenario(ATTACK, name, epsilon, streams, SERVERS[ATTACK])


def null(epsilon: float) -> Iterator[tuple[str, Streams, dict[str, int]]]:
    """Yield traffic under which no certificate should be revoked, with its numbers of rows."""
    good = epsilon / 2
    yield INDEPENDENT, (RowStream(1, epsilon),), {}
    yield REPEATS, (RowStream(0.95, 0), RowStream(0.05, good / 0.05)), {}
    # Only distinct rows remain, a twentieth of all. Of these, a share of ten times epsilon differs.
    yield REPEATS_DROPPED, (RowStream(1, good / 0.05),), {"rows": ROWS // 20}
    yield ONE_PICTURE_ALL, (RowStream(1, 1, pictures=1),), {}
    bursts = "bursts of 20 rows of which half differ; epsilon / 2 differs; one caller"
    for name, callers in ((bursts, range(1)), ("the same bursts, each from one of ten callers", TEN)):
        yield name, (RowStream(1 - epsilon, 0, callers), RowStream(epsilon, 0.5, callers)), {"run_rows": 20}
    one_foreign = "ten callers, one of them foreign: 30 % of its rows differ"
    for name, share in ((one_foreign, 0.1), ("ten callers, the foreign one sends 90 % of the rows", 0.9)):
        yield name, (RowStream(1 - share, good, TEN[:9]), RowStream(share, 0.3, TEN[9:])), {}


def power(epsilon: float, risk: float) -> Iterator[Scenario]:
    """Yield traffic that breaks a certificate."""
    scenario = partial(Scenario, POWER, epsilon=epsilon, rows=POWER_ROWS, risk=risk)
    for count, name in CALLERS.items():
        streams: Streams = (RowStream(1, risk, range(count)),)
        yield scenario(name, streams=streams, servers=SERVERS[POWER])
        after = f"{name}, after {GOOD_ROWS:,} good rows"
        yield scenario(after, streams=streams, servers=FEW_SERVERS, good_rows=GOOD_ROWS)
    for share in (0.9, 0.99):
        streams = RowStream(share, risk, range(1)), RowStream(1 - share, risk, range(1, 2))
        name = f"two callers, one with {100 * share:.0f} % of the rows"
        yield scenario(name, streams=streams, servers=FEW_SERVERS)


def attacks(epsilon: float) -> Iterator[tuple[str, Streams]]:
    """Yield attackers who try to revoke a valid certificate, or to prevent the revocation of a broken one."""

    def attack(share: float, addresses: int, risk: float = 1, pictures: int | None = None) -> RowStream:
        return RowStream(share, risk, range(10, 10 + addresses), pictures, is_attacker=True)

    most, few = RowStream(0.9, epsilon / 2, TEN), RowStream(1 - 0.9, epsilon / 2, TEN)
    yield from ((name, (most, attack(0.1, count))) for count, name in DIFFERENT.items())
    yield LARGE_ATTACKER, (few, attack(0.9, 1))
    yield LONE_ATTACKER, (attack(1, 1),)
    yield from ((name, (most, attack(0.1, count, pictures=1))) for count, name in ONE_PICTURE.items())
    for share, name in FLOODS.items():
        yield name, (RowStream(1 - share, 0.05, TEN), attack(share, 1, risk=0))


class ServerResult(NamedTuple):
    """Row counts of one simulated server; good rows are not counted."""

    revoked_after: int | None
    """Rows until it revoked; None if it never did."""
    attacker_rows: int
    """Number of the attacker's rows before the server revoked."""
    is_suspected: bool
    """Whether it suspected one caller at any time."""


def run_server(scenario: Scenario, number: int) -> ServerResult:
    """Count rows until the certificate is revoked, or to the end."""
    test = AgreementTest(scenario.epsilon, DELTA)
    attacker_rows, is_suspected = 0, False
    for position, (row_bytes, caller, from_attacker) in enumerate(sampled_rows(scenario, number), start=1):
        counted = max(0, position - scenario.good_rows)
        attacker_rows += from_attacker and counted > 0
        test.count(agreed=row_bytes is None, row=row_bytes or b"", caller=caller)
        if row_bytes is None and position != LONE_CALLER_ROWS:
            continue  # the verdict changes only at a row that differs, or at row LONE_CALLER_ROWS
        verdict = test.verdict
        if verdict is Verdict.BROKEN:
            return ServerResult(counted, attacker_rows, is_suspected)
        is_suspected = is_suspected or verdict is Verdict.SUSPECTED
    return ServerResult(None, attacker_rows, is_suspected)


def sampled_rows(scenario: Scenario, number: int) -> Iterator[tuple[bytes | None, str, bool]]:
    """Yield each row of a server: its bytes if it differs, else None; its caller; whether it is an attack."""
    label = f"{scenario.table}/{scenario.name}/{scenario.epsilon}/{scenario.risk}"
    generator = np.random.default_rng([SEED, zlib.crc32(label.encode()), number])
    streams = scenario.streams
    rows = scenario.good_rows + scenario.rows
    runs = -(-rows // scenario.run_rows)
    stream_R = generator.choice(len(streams), size=runs, p=[stream.share for stream in streams])
    first_S = np.array([stream.callers.start for stream in streams])
    callers_S = np.array([len(stream.callers) for stream in streams])
    caller_R = first_S[stream_R] + generator.integers(callers_S[stream_R])
    stream_N, caller_N = (each.repeat(scenario.run_rows)[:rows] for each in (stream_R, caller_R))
    risk_N = np.array([stream.risk for stream in streams])[stream_N]
    risk_N[: scenario.good_rows] = scenario.epsilon / 2
    differs_N = generator.random(rows) < risk_N
    columns = zip(differs_N.tolist(), stream_N.tolist(), caller_N.tolist(), strict=True)
    for position, (differs, stream, caller) in enumerate(columns):
        picture = position % (streams[stream].pictures or rows)
        yield f"{stream}/{picture}".encode() if differs else None, str(caller), streams[stream].is_attacker


class ScenarioResult(RecordPart):
    """The servers of one scenario. A number of rows is None if too few servers revoked."""

    table: str
    name: str
    epsilon: float
    risk: float | None
    servers: int
    revoked: int
    suspected: int
    median_rows: int | None
    """Rows until half of the servers had revoked."""
    most_rows: int | None
    """Rows until 95 % of the servers had revoked."""
    median_attacker_rows: int | None

    @classmethod
    def of(cls, scenario: Scenario, results: Sequence[ServerResult]) -> Self:
        """Summarise the servers of a scenario."""
        rows = sorted(each.revoked_after for each in results if each.revoked_after is not None)
        attacker_rows = sorted(each.attacker_rows for each in results if each.revoked_after is not None)
        half, most = (ceil(share * len(results)) - 1 for share in (0.5, 0.95))
        return cls(
            table=scenario.table,
            name=scenario.name,
            epsilon=scenario.epsilon,
            risk=scenario.risk,
            servers=len(results),
            revoked=len(rows),
            suspected=sum(each.is_suspected for each in results),
            median_rows=rows[half] if half < len(rows) else None,
            most_rows=rows[most] if most < len(rows) else None,
            median_attacker_rows=attacker_rows[half] if half < len(rows) else None,
        )


class MonitorRecord(RecordPart):
    """The results of all scenarios."""

    versions: dict[str, str]
    results: tuple[ScenarioResult, ...]


def simulate(chosen: Sequence[Scenario]) -> MonitorRecord:
    """Simulate the servers of these scenarios."""
    results = [
        ScenarioResult.of(scenario, [run_server(scenario, number) for number in range(scenario.servers)])
        for scenario in tqdm(chosen)
    ]
    return MonitorRecord(versions=package_versions(("numpy",)), results=tuple(results))


def lines(record: MonitorRecord) -> Iterator[str]:
    """Yield the tables for the page."""
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    yield f"Simulated with delta {DELTA:g} and seed {SEED}; {versions}. All rows are sampled rows."
    yield ""
    yield f"**Traffic under which no certificate should be revoked**, {SERVERS[NULL]} servers, {ROWS:,} rows:"
    columns = "revoked (95 % interval)", "rows until then (the attacker's)", "suspected"
    titles = [f"epsilon {percent(epsilon)}: {column}" for epsilon in EPSILONS for column in columns]
    yield from ("", *table(record, NULL, ("traffic", *titles), _revoked), "")
    yield (
        "**Rows until half / 95 % of the servers have revoked a broken certificate.** Each scenario has "
        f"{SERVERS[POWER]} servers, or {FEW_SERVERS} if it starts with good rows or has unequal callers. "
        f"\N{EN DASH}: not within {POWER_ROWS:,} rows."
    )
    pairs = [f"epsilon {percent(e)}, {percent(risk)} differ" for e in EPSILONS for risk in RISKS if risk > e]
    yield from ("", *table(record, POWER, ("callers", *pairs), _rows_to_revoke), "")
    yield (
        f"**Attacks**, {SERVERS[ATTACK]} servers, {ROWS:,} rows. Unless stated otherwise, ten honest "
        "callers send 90 % of the rows, and a share epsilon / 2 of these differs. The attacker sends 10 % of "
        "the rows, and all of these differ."
    )
    yield from ("", *table(record, ATTACK, ("traffic", *titles), _revoked))


def table(
    record: MonitorRecord, name: str, titles: Sequence[str], cells: Callable[[ScenarioResult], str]
) -> Iterator[str]:
    """Yield a table with a row for each traffic, and the cells of all its results."""
    yield header(*titles)
    results = [each for each in record.results if each.table == name]
    for traffic in dict.fromkeys(each.name for each in results):
        yield row(traffic, *[cells(each) for each in results if each.name == traffic])


def _revoked(result: ScenarioResult) -> str:
    interval = binomtest(result.revoked, result.servers).proportion_ci(0.95, "exact")
    share = f"{percent(result.revoked / result.servers)} ({percent_range(interval.low, interval.high)})"
    rows = f"{_rows(result.median_rows)} ({_rows(result.median_attacker_rows)})"
    suspected = percent(result.suspected / result.servers)
    return f"{share} | {rows if result.median_rows else _rows(None)} | {suspected}"


def _rows_to_revoke(result: ScenarioResult) -> str:
    return f"{_rows(result.median_rows)} / {_rows(result.most_rows)}"


def _rows(rows: int | None) -> str:
    return "\N{EN DASH}" if rows is None else f"{rows:,}"


PUBLICATION = Publication(
    record_type=MonitorRecord,
    path=DOCS / "certificates" / "monitor.json",
    page=DOCS / "certificates.md",
    part=WrittenPart("monitor", "python -m bench.monitor"),
    lines=lines,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.monitor", description=__doc__)
    PUBLICATION.run(parser, lambda _: simulate(list(scenarios())))
