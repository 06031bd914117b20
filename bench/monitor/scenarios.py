"""The traffic that is simulated: who sends sampled rows, and how many of them differ.

A row differs where its early answer is not the final exit's. All shares are of sampled rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

NULL, POWER, ATTACK = "null", "power", "attack"
"""The tables: what should not revoke; how soon a broken certificate is revoked; what an attacker can do."""
EPSILONS = (0.01, 0.03)
"""Of the released model's points `balanced` and `fast`."""
RISKS = (0.03, 0.05, 0.10)
ROWS, POWER_ROWS = 4_000, 8_000
GOOD_ROWS = 20_000
"""Rows that come before a certificate breaks, where it held for a while; half of epsilon differ."""
BURST_ROWS, BURST_RISK = 20, 0.5
FOREIGN_RISK = 0.3
HONEST_CALLERS = 10
ATTACK_SHARE = 0.1
HIDDEN_RISK = 0.05
ROWS_A_SECOND = 10
"""Sampled rows of 1,000 rows a second, at the default share of 1 %."""


@dataclass(frozen=True)
class RowStream:
    """Rows of one kind, sent by some callers, each as often."""

    share: float
    """Of all rows."""
    risk: float
    """The share of its rows that differ."""
    callers: range = range(1)
    """Their numbers; two sources may have callers in common."""
    pictures: int | None = None
    """How many different rows are among those that differ; None: all are different."""
    is_attacker: bool = False


@dataclass(frozen=True)
class Scenario:
    """Traffic that many servers are simulated with, each on its own."""

    table: str
    name: str
    epsilon: float
    servers: int
    sources: tuple[RowStream, ...]
    rows: int = ROWS
    good_rows: int = 0
    """Rows that come first, and are not counted: by the same callers, but half of epsilon differ."""
    run_rows: int = 1
    """How many rows of one caller follow each other."""
    risk: float | None = None
    """The true risk, where it is broken."""


def scenarios(servers: int) -> Iterator[Scenario]:
    """Yield every scenario.

    servers: how many are simulated in the first table; half of it in the others, an eighth in those of
    many rows.
    """
    for epsilon in EPSILONS:
        yield from null(epsilon, servers)
        yield from power(epsilon, max(1, servers // 2), max(1, servers // 8))
        yield from attacks(epsilon, max(1, servers // 2))


INDEPENDENT = "independent rows, a share epsilon differs"
WELL_WITHIN = "independent rows, epsilon / 2 differs"
REPEATS = "95 % of rows repeat 20 agreeing pictures; epsilon / 2 differs"
REPEATS_DROPPED = "the same traffic, if repeated rows were dropped"
ONE_PICTURE_HALF = "one picture that differs is half of the rows"
ONE_PICTURE_ALL = "one picture that differs is all rows"
MISSING = "epsilon differs, and 30 % of those rows are missing"
BURSTS = f"bursts of {BURST_ROWS} rows of which half differ; epsilon / 2 differs; one caller"
BURSTS_OF_TEN = "the same bursts, each from one of ten callers"
ONE_OF_TEN = f"ten callers, one of them foreign: {100 * FOREIGN_RISK:.0f} % of its rows differ"
ONE_OF_TEN_LARGE = "ten callers, the foreign one sends 90 % of the rows"
ONE_OF_HUNDRED = "a hundred callers, one of them foreign"


def null(epsilon: float, servers: int) -> Iterator[Scenario]:
    """Yield traffic that should not revoke."""

    def of(name: str, *sources: RowStream, rows: int = ROWS, run_rows: int = 1) -> Scenario:
        return Scenario(NULL, name, epsilon, servers, sources, rows=rows, run_rows=run_rows)

    good = epsilon / 2
    yield of(INDEPENDENT, RowStream(1, epsilon))
    yield of(WELL_WITHIN, RowStream(1, good))
    yield of(REPEATS, RowStream(0.95, 0), RowStream(0.05, good / 0.05))
    # The test would see nothing but the different rows, in which ten times epsilon differs.
    yield of(REPEATS_DROPPED, RowStream(1, good / 0.05), rows=ROWS // 20)
    yield of(MISSING, RowStream(1, 0.7 * epsilon))
    yield of(ONE_PICTURE_HALF, RowStream(0.5, good), RowStream(0.5, 1, pictures=1))
    yield of(ONE_PICTURE_ALL, RowStream(1, 1, pictures=1))
    in_bursts = good / BURST_RISK
    for name, callers in ((BURSTS, range(1)), (BURSTS_OF_TEN, range(HONEST_CALLERS))):
        sources = RowStream(1 - in_bursts, 0, callers), RowStream(in_bursts, BURST_RISK, callers)
        yield of(name, *sources, run_rows=BURST_ROWS)
    for name, honest_callers, share in (
        (ONE_OF_TEN, 9, 0.1),
        (ONE_OF_TEN_LARGE, 9, 0.9),
        (ONE_OF_HUNDRED, 99, 0.01),
    ):
        honest, foreign = range(honest_callers), range(honest_callers, honest_callers + 1)
        yield of(name, RowStream(1 - share, good, honest), RowStream(share, FOREIGN_RISK, foreign))


AFTER_GOOD = f", after {GOOD_ROWS:,} good rows"
CALLERS = {1: "one caller", 2: "two callers", 10: "ten callers", 100: "a hundred callers"}
UNEQUAL = {0.9: "two callers, one with 90 % of the rows", 0.99: "two callers, one with 99 % of the rows"}


def power(epsilon: float, servers: int, few_servers: int) -> Iterator[Scenario]:
    """Yield traffic that breaks a certificate, all callers alike; good_rows and unequal callers on few."""

    def of(name: str, servers: int, *sources: RowStream, good_rows: int = 0) -> Scenario:
        return Scenario(POWER, name, epsilon, servers, sources, POWER_ROWS, good_rows, risk=risk)

    for risk in (each for each in RISKS if each > epsilon):
        for callers, name in CALLERS.items():
            source = RowStream(1, risk, range(callers))
            yield of(name, servers, source)
            yield of(name + AFTER_GOOD, few_servers, source, good_rows=GOOD_ROWS)
        for share, name in UNEQUAL.items():
            sources = RowStream(share, risk, range(1)), RowStream(1 - share, risk, range(1, 2))
            yield of(name, few_servers, *sources)


LONE_ATTACKER = "the attacker is the only caller"
LARGE_ATTACKER = "1 address sends 90 % of the rows, all different"
DIFFERENT = {count: f"{count} address{'es' * (count > 1)}, all rows different" for count in (1, 2, 10, 100)}
ONE_PICTURE = {count: f"{count} address{'es' * (count > 1)}, one picture" for count in (1, 10, 100)}
FLOODS = {
    share: f"1 address sends {100 * share:.0f} % of the rows, which agree; "
    f"{100 * HIDDEN_RISK:.0f} % of the honest rows differ"
    for share in (0.5, 0.9)
}


def attacks(epsilon: float, servers: int) -> Iterator[Scenario]:
    """Yield what an attacker sends among honest callers: to have a certificate revoked, or to keep it."""

    def of(name: str, *sources: RowStream) -> Scenario:
        return Scenario(ATTACK, name, epsilon, servers, sources)

    def honest(attack_share: float, risk: float = epsilon / 2) -> RowStream:
        return RowStream(1 - attack_share, risk, range(HONEST_CALLERS))

    def attack(share: float, addresses: int, risk: float = 1.0, pictures: int | None = None) -> RowStream:
        callers = range(HONEST_CALLERS, HONEST_CALLERS + addresses)
        return RowStream(share, risk, callers, pictures, is_attacker=True)

    for count, name in DIFFERENT.items():
        yield of(name, honest(ATTACK_SHARE), attack(ATTACK_SHARE, count))
    yield of(LARGE_ATTACKER, honest(0.9), attack(0.9, 1))
    yield of(LONE_ATTACKER, attack(1.0, 1))
    for count, name in ONE_PICTURE.items():
        yield of(name, honest(ATTACK_SHARE), attack(ATTACK_SHARE, count, pictures=1))
    for share, name in FLOODS.items():
        yield of(name, honest(share, HIDDEN_RISK), attack(share, 1, risk=0))
