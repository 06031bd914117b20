"""Writes what the simulation of the live test counted into docs/certificates.md."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import scipy

from bench.monitor.record import MonitorRecord, Result
from bench.monitor.scenarios import (
    AFTER_GOOD,
    ATTACK,
    BURSTS,
    CALLERS,
    DIFFERENT,
    EPSILONS,
    GOOD_ROWS,
    HIDDEN_RISK,
    INDEPENDENT,
    LARGE_ATTACKER,
    NULL,
    POWER,
    POWER_ROWS,
    RISKS,
    ROWS,
    ROWS_A_SECOND,
)
from training.reporting.markdown import WrittenPart, row, rule
from training.reporting.numerals import percent, percent_range

PAGE = Path(__file__).parent.parent.parent / "docs" / "certificates.md"
PART = WrittenPart("monitor", "python -m bench.monitor")
NONE = "\N{EN DASH}"


def write(record: MonitorRecord) -> None:
    """Write a record into its place on the page."""
    PART.write(PAGE, lines(record))


def lines(record: MonitorRecord) -> Iterator[str]:
    """Yield the whole part of the page."""
    smallest, largest, stakes = record.stakes
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    yield (
        f"delta {record.delta:g}; {stakes} stakes, lambda · epsilon from {smallest:g} to {largest:g}; at "
        f"least {record.least_differing} different rows; at least {record.lone_caller_rows} rows of a lone "
        f"caller; {record.most_callers} callers left out in turn. Each simulated server has a test and a "
        f"seed of its own (seed {record.seed}). All rows are sampled rows. {versions}."
    )
    yield ""
    yield from summary(record)
    yield ""
    yield from false_revocations(record)
    yield ""
    yield from rows_to_revoke(record)
    yield ""
    yield from attacks(record)
    yield ""
    yield from largest_stakes(record)


def summary(record: MonitorRecord) -> Iterator[str]:
    """Yield the main figures."""
    first, second = EPSILONS
    risk = HIDDEN_RISK

    def both(name: str) -> str:
        shares = [_revoked(record.find(name, epsilon)) for epsilon in EPSILONS]
        return f"{shares[0]} of the servers at epsilon {percent(first)} and {shares[1]} at {percent(second)}"

    def median(name: str) -> str:
        return _rows(record.find(name, first, risk).median_rows)

    yield (
        f"- Independent rows of which epsilon differs revoke {both(INDEPENDENT)}, within {ROWS:,} rows; "
        f"delta is {percent(record.delta)}. Bursts revoke {both(BURSTS)}, though only epsilon / 2 differs."
    )
    one, two, ten = (CALLERS[count] for count in (1, 2, 10))
    yield (
        f"- Where {percent(risk)} differ instead of {percent(first)}, half of the servers revoke within "
        f"{median(one)} rows with {one}, {median(two)} with {two} and {median(ten)} with {ten}; after "
        f"{GOOD_ROWS:,} good rows {median(one + AFTER_GOOD)}, {median(two + AFTER_GOOD)} and "
        f"{median(ten + AFTER_GOOD)}."
    )
    single, pair = (record.find(DIFFERENT[count], first) for count in (1, 2))
    yield (
        f"- One address among ten honest callers revokes {single.revoked} of {single.servers} servers. Two "
        f"revoke {pair.revoked}, half of them within {_rows(pair.median_rows)} rows, "
        f"{_rows(pair.median_attacker_rows)} of them the attacker's."
    )
    yield (
        f"- One address that sends 90 % of the rows revokes {both(LARGE_ATTACKER)}: it would have to send "
        f"the first {record.lone_caller_rows} rows that are sampled."
    )


def false_revocations(record: MonitorRecord) -> Iterator[str]:
    """Yield the table of what should not revoke."""
    first = next(each for each in record.results if each.table == NULL)
    yield (
        f"**What should not revoke.** Servers revoked within {ROWS:,} rows, of {first.servers} (95 % "
        "Clopper-Pearson interval), and servers that suspected one caller at any time:"
    )
    yield ""
    yield row(
        "traffic",
        *[f"epsilon {percent(each)}: {what}" for each in EPSILONS for what in ("revoked", "suspected")],
    )
    yield rule(1 + 2 * len(EPSILONS))
    for name in _names(record, NULL):
        cells: list[str] = []
        for epsilon in EPSILONS:
            found = record.find(name, epsilon)
            cells += [f"{_revoked(found)} ({_interval(found)})", percent(found.suspected / found.servers)]
        yield row(name, *cells)


def rows_to_revoke(record: MonitorRecord) -> Iterator[str]:
    """Yield the table of how soon a broken certificate is revoked."""
    broken = [(epsilon, risk) for epsilon in EPSILONS for risk in RISKS if risk > epsilon]
    counts = sorted({each.servers for each in record.results if each.table == POWER}, reverse=True)
    yield (
        "**How soon a broken certificate is revoked.** Rows until half / 95 % of the servers had revoked it, "
        f"of {' or '.join(str(count) for count in counts)} servers (the fewer after good rows and with "
        f"unequal callers); {NONE}: not within {POWER_ROWS:,} rows. In brackets: until half had suspected "
        "one caller."
    )
    yield ""
    yield row("callers", *[f"epsilon {percent(e)}, {percent(risk)} differ" for e, risk in broken])
    yield rule(1 + len(broken))
    for name in _names(record, POWER):
        yield row(name, *[_rows_to_revoke(record.find(name, *each)) for each in broken])


def attacks(record: MonitorRecord) -> Iterator[str]:
    """Yield the table of what an attacker reaches."""
    first = next(each for each in record.results if each.table == ATTACK)
    yield (
        f"**What an attacker reaches.** Ten honest callers, of whose rows epsilon / 2 differs; the attacker "
        f"sends 10 % of the rows, and all differ, unless stated otherwise. Servers revoked within {ROWS:,} "
        f"rows, of {first.servers}; median rows until then, in all and the attacker's; servers that "
        f"suspected one caller. At 1,000 rows a second and a share of 1 %, {ROWS_A_SECOND} rows are sampled "
        "a second."
    )
    yield ""
    whats = ("revoked", "rows, the attacker's", "suspected")
    yield row("attack", *[f"epsilon {percent(each)}: {what}" for each in EPSILONS for what in whats])
    yield rule(1 + len(whats) * len(EPSILONS))
    for name in _names(record, ATTACK):
        cells: list[str] = []
        for epsilon in EPSILONS:
            found = record.find(name, epsilon)
            cells += [_revoked(found), _until_revoked(found), percent(found.suspected / found.servers)]
        yield row(name, *cells)


def largest_stakes(record: MonitorRecord) -> Iterator[str]:
    """Yield the table of other largest stakes."""
    yield (
        f"**Another largest stake.** Independent rows of one caller, {record.stakes_servers:,} servers: the "
        f"share revoked within {record.stakes_rows:,} rows where epsilon differs, else median rows to revoke."
    )
    yield ""
    columns = list(dict.fromkeys((each.epsilon, each.risk) for each in record.other_stakes))
    yield row(
        "largest lambda · epsilon",
        *[
            f"epsilon {percent(epsilon)}, {percent(risk)} differ" + ": revoked" * (risk == epsilon)
            for epsilon, risk in columns
        ],
    )
    yield rule(1 + len(columns))
    found = {(each.largest, each.epsilon, each.risk): each for each in record.other_stakes}
    for largest in dict.fromkeys(each.largest for each in record.other_stakes):
        cells = []
        for epsilon, risk in columns:
            each = found[largest, epsilon, risk]
            at_null = percent(each.revoked / record.stakes_servers)
            cells.append(at_null if risk == epsilon else _rows(each.median_rows))
        yield row(f"{largest:g}", *cells)


def _names(record: MonitorRecord, table: str) -> Sequence[str]:
    return list(dict.fromkeys(each.name for each in record.results if each.table == table))


def _revoked(result: Result) -> str:
    return percent(result.revoked / result.servers)


def _interval(result: Result) -> str:
    interval = scipy.stats.binomtest(result.revoked, result.servers).proportion_ci(0.95, "exact")
    return percent_range(interval.low, interval.high)


def _rows_to_revoke(result: Result) -> str:
    until = f"{_rows(result.median_rows)} / {_rows(result.most_rows)}"
    if result.suspected > result.servers / 2:
        until += f" ({_rows(result.median_suspected_rows)})"
    return until


def _until_revoked(result: Result) -> str:
    if result.median_rows is None:
        return NONE
    return f"{_rows(result.median_rows)}, {_rows(result.median_attacker_rows)}"


def _rows(rows: int | None) -> str:
    return NONE if rows is None else f"{rows:,}"
