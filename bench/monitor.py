"""Simulate the live test of a certificate: false revocations, rows before a revocation, and attacks.

    python -m bench.monitor

Every simulated server runs the test of the real server over sampled rows, with a seed of its own. Writes the
record docs/certificates/monitor.json and its tables in docs/certificates.md, in ten minutes on two cores.
With --page, only the tables are written, from the record.
"""

import argparse
import multiprocessing
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from scipy.stats import binomtest
from tqdm import tqdm

from serving.monitor.agreement import LONE_CALLER_ROWS, AgreementTest, Verdict
from training.reporting.conditions import package_versions
from training.reporting.markdown import WrittenPart, row, rule
from training.reporting.numerals import percent, percent_range
from training.reporting.record import RecordPart

PAGE = Path(__file__).parent.parent / "docs" / "certificates.md"
RECORD = PAGE.parent / "certificates" / "monitor.json"
PART = WrittenPart("monitor", "python -m bench.monitor")
SEED, DELTA, PROCESSES = 0, 0.05, 2
EPSILONS = (0.01, 0.03)
"""The epsilons of the released model's points `balanced` and `fast`."""
RISKS = (0.03, 0.05, 0.10)
ROWS, POWER_ROWS, GOOD_ROWS = 4_000, 8_000, 20_000
HONEST_CALLERS = 10
NULL, POWER, ATTACK = "null", "power", "attack"
SERVERS = {NULL: 400, POWER: 200, ATTACK: 200}
FEW_SERVERS = 50
"""Number of servers in a scenario that starts with good rows or has unequal callers."""

INDEPENDENT = "independent rows, a share epsilon differs"
REPEATS = "95 % of rows repeat 20 agreeing pictures; epsilon / 2 differs"
REPEATS_DROPPED = "the same traffic, if repeated rows were dropped"
ONE_PICTURE_ALL = "one picture that differs is all rows"
BURSTS = "bursts of 20 rows of which half differ; epsilon / 2 differs; one caller"
BURSTS_OF_TEN = "the same bursts, each from one of ten callers"
ONE_OF_TEN = "ten callers, one of them foreign: 30 % of its rows differ"
ONE_OF_TEN_LARGE = "ten callers, the foreign one sends 90 % of the rows"
CALLERS = {1: "one caller", 2: "two callers", 10: "ten callers"}
AFTER_GOOD = f", after {GOOD_ROWS:,} good rows"
UNEQUAL = {0.9: "two callers, one with 90 % of the rows", 0.99: "two callers, one with 99 % of the rows"}
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


@dataclass(frozen=True)
class Scenario:
    """The traffic of a number of simulated servers. The seeds depend on table, name, epsilon and risk."""

    table: str
    name: str
    epsilon: float
    streams: tuple[RowStream, ...]
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
        yield from null(epsilon)
        for risk in RISKS:
            if risk > epsilon:
                yield from power(epsilon, risk)
        yield from attacks(epsilon)


def null(epsilon: float) -> Iterator[Scenario]:
    """Yield traffic under which no certificate should be revoked."""

    def scenario(name: str, *streams: RowStream, rows: int = ROWS, run_rows: int = 1) -> Scenario:
        return Scenario(NULL, name, epsilon, streams, SERVERS[NULL], rows, run_rows=run_rows)

    good = epsilon / 2
    yield scenario(INDEPENDENT, RowStream(1, epsilon))
    yield scenario(REPEATS, RowStream(0.95, 0), RowStream(0.05, good / 0.05))
    # Only distinct rows remain, a twentieth of all. Of these, a share of ten times epsilon differs.
    yield scenario(REPEATS_DROPPED, RowStream(1, good / 0.05), rows=ROWS // 20)
    yield scenario(ONE_PICTURE_ALL, RowStream(1, 1, pictures=1))
    for name, callers in ((BURSTS, range(1)), (BURSTS_OF_TEN, range(HONEST_CALLERS))):
        streams = RowStream(1 - epsilon, 0, callers), RowStream(epsilon, 0.5, callers)
        yield scenario(name, *streams, run_rows=20)
    for name, share in ((ONE_OF_TEN, 0.1), (ONE_OF_TEN_LARGE, 0.9)):
        yield scenario(name, RowStream(1 - share, good, range(9)), RowStream(share, 0.3, range(9, 10)))


def power(epsilon: float, risk: float) -> Iterator[Scenario]:
    """Yield traffic that breaks a certificate."""

    def scenario(name: str, servers: int, *streams: RowStream, good_rows: int = 0) -> Scenario:
        return Scenario(POWER, name, epsilon, streams, servers, POWER_ROWS, good_rows, risk=risk)

    for callers, name in CALLERS.items():
        stream = RowStream(1, risk, range(callers))
        yield scenario(name, SERVERS[POWER], stream)
        yield scenario(name + AFTER_GOOD, FEW_SERVERS, stream, good_rows=GOOD_ROWS)
    for share, name in UNEQUAL.items():
        streams = RowStream(share, risk, range(1)), RowStream(1 - share, risk, range(1, 2))
        yield scenario(name, FEW_SERVERS, *streams)


def attacks(epsilon: float) -> Iterator[Scenario]:
    """Yield attackers who try to revoke a valid certificate, or to prevent the revocation of a broken one."""

    def scenario(name: str, *streams: RowStream) -> Scenario:
        return Scenario(ATTACK, name, epsilon, streams, SERVERS[ATTACK])

    def honest(attack_share: float, risk: float = epsilon / 2) -> RowStream:
        return RowStream(1 - attack_share, risk, range(HONEST_CALLERS))

    def attack(share: float, addresses: int, risk: float = 1, pictures: int | None = None) -> RowStream:
        callers = range(HONEST_CALLERS, HONEST_CALLERS + addresses)
        return RowStream(share, risk, callers, pictures, is_attacker=True)

    for count, name in DIFFERENT.items():
        yield scenario(name, honest(0.1), attack(0.1, count))
    yield scenario(LARGE_ATTACKER, honest(0.9), attack(0.9, 1))
    yield scenario(LONE_ATTACKER, attack(1, 1))
    for count, name in ONE_PICTURE.items():
        yield scenario(name, honest(0.1), attack(0.1, count, pictures=1))
    for share, name in FLOODS.items():
        yield scenario(name, honest(share, 0.05), attack(share, 1, risk=0))


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
        revoked = [each for each in results if each.revoked_after is not None]
        rows = [each.revoked_after for each in revoked if each.revoked_after is not None]
        return cls(
            table=scenario.table,
            name=scenario.name,
            epsilon=scenario.epsilon,
            risk=scenario.risk,
            servers=len(results),
            revoked=len(revoked),
            suspected=sum(each.is_suspected for each in results),
            median_rows=quantile(rows, len(results), 0.5),
            most_rows=quantile(rows, len(results), 0.95),
            median_attacker_rows=quantile([each.attacker_rows for each in revoked], len(results), 0.5),
        )


def quantile(reached: Sequence[int], servers: int, share: float) -> int | None:
    """Return the smallest row count within which this share of the servers revoked; None if fewer did."""
    needed = ceil(share * servers)
    return sorted(reached)[needed - 1] if needed <= len(reached) else None


class MonitorRecord(RecordPart):
    """The results of all scenarios."""

    versions: dict[str, str]
    results: tuple[ScenarioResult, ...]

    def find(self, name: str, epsilon: float, risk: float | None = None) -> ScenarioResult:
        """Return the result of a scenario."""
        key = (name, epsilon, risk)
        return next(each for each in self.results if (each.name, each.epsilon, each.risk) == key)


def simulate(chosen: Sequence[Scenario]) -> MonitorRecord:
    """Simulate the servers of these scenarios in several processes."""
    results = []
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for scenario in tqdm(chosen):
            servers = pool.map(partial(run_server, scenario), range(scenario.servers))
            results.append(ScenarioResult.of(scenario, servers))
    return MonitorRecord(versions=package_versions(("numpy",)), results=tuple(results))


def lines(record: MonitorRecord) -> Iterator[str]:
    """Yield the tables for the page."""
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    yield f"Simulated with delta {DELTA:g} and seed {SEED}; {versions}. All rows are sampled rows."
    yield ""
    yield f"**Traffic under which no certificate should be revoked**, {SERVERS[NULL]} servers, {ROWS:,} rows:"
    yield from ("", *table(record, NULL))
    yield ""
    yield (
        "**Rows until half / 95 % of the servers have revoked a broken certificate.** Each scenario has "
        f"{SERVERS[POWER]} servers, or {FEW_SERVERS} if it starts with good rows or has unequal callers. "
        f"\N{EN DASH}: not within {POWER_ROWS:,} rows."
    )
    yield from ("", *power_table(record), "")
    yield (
        f"**Attacks**, {SERVERS[ATTACK]} servers, {ROWS:,} rows. Unless stated otherwise, ten honest "
        "callers send 90 % of the rows, and a share epsilon / 2 of these differs. The attacker sends 10 % of "
        "the rows, and all of these differ."
    )
    yield from ("", *table(record, ATTACK))


def table(record: MonitorRecord, name: str) -> Iterator[str]:
    """Yield a table of the servers that revoked or suspected one caller."""
    columns = ("revoked (95 % interval)", "rows until then (the attacker's)", "suspected")
    yield row("traffic", *[f"epsilon {percent(epsilon)}: {each}" for epsilon in EPSILONS for each in columns])
    yield rule(1 + len(columns) * len(EPSILONS))
    results = [each for each in record.results if each.table == name]
    for traffic in dict.fromkeys(each.name for each in results):
        cells: list[str] = []
        for result in (record.find(traffic, epsilon) for epsilon in EPSILONS):
            interval = binomtest(result.revoked, result.servers).proportion_ci(0.95, "exact")
            after = f"{_rows(result.median_rows)} ({_rows(result.median_attacker_rows)})"
            cells += [
                f"{percent(result.revoked / result.servers)} ({percent_range(interval.low, interval.high)})",
                after if result.median_rows else "\N{EN DASH}",
                percent(result.suspected / result.servers),
            ]
        yield row(traffic, *cells)


def power_table(record: MonitorRecord) -> Iterator[str]:
    """Yield the table of rows until a broken certificate is revoked."""
    results = [each for each in record.results if each.table == POWER]
    pairs = dict.fromkeys((each.epsilon, each.risk) for each in results)
    yield row("callers", *[f"epsilon {percent(e)}, {percent(risk or 0)} differ" for e, risk in pairs])
    yield rule(1 + len(pairs))
    for traffic in dict.fromkeys(each.name for each in results):
        by_pair = [record.find(traffic, *pair) for pair in pairs]
        yield row(traffic, *[f"{_rows(each.median_rows)} / {_rows(each.most_rows)}" for each in by_pair])


def _rows(rows: int | None) -> str:
    return "\N{EN DASH}" if rows is None else f"{rows:,}"


def main() -> None:
    """Simulate and write the record and the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.monitor", description=__doc__)
    parser.add_argument("--page", action="store_true", help="only write the page, from the record")
    if not parser.parse_args().page:
        simulate(list(scenarios())).write(RECORD)
    PART.write(PAGE, lines(MonitorRecord.read(RECORD)))


if __name__ == "__main__":
    main()
