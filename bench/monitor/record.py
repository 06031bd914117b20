"""What the simulation of the live test counted, as kept in docs/certificates/monitor.json."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple, Self

from bench.monitor.scenarios import Scenario
from training.reporting.record import RecordPart


class Ended(NamedTuple):
    """How one simulated server ended; rows are counted from when the certificate may break."""

    revoked_after: int | None
    """The row after which it revoked; None: it never did."""
    attacker_rows: int
    """How many of the rows until then were the attacker's."""
    suspected_after: int | None
    """The row after which it first suspected one caller; None: it never did."""


class Result(RecordPart):
    """What the servers of one scenario did; None where so many of them never did."""

    table: str
    name: str
    epsilon: float
    risk: float | None
    servers: int
    rows: int
    revoked: int
    """Servers that revoked within so many rows."""
    suspected: int
    """Servers that suspected one caller at any time."""
    median_rows: int | None
    """Rows after which half of the servers had revoked."""
    most_rows: int | None
    """Rows after which 95 % had."""
    median_attacker_rows: int | None
    median_suspected_rows: int | None

    @classmethod
    def of(cls, scenario: Scenario, ended: Sequence[Ended]) -> Self:
        """Summarise the servers of a scenario."""
        revoked = [each.revoked_after for each in ended if each.revoked_after is not None]
        attacker = [each.attacker_rows for each in ended if each.revoked_after is not None]
        suspected = [each.suspected_after for each in ended if each.suspected_after is not None]
        servers = len(ended)
        return cls(
            table=scenario.table,
            name=scenario.name,
            epsilon=scenario.epsilon,
            risk=scenario.risk,
            servers=servers,
            rows=scenario.rows,
            revoked=len(revoked),
            suspected=len(suspected),
            median_rows=quantile(revoked, servers, 0.5),
            most_rows=quantile(revoked, servers, 0.95),
            median_attacker_rows=quantile(attacker, servers, 0.5),
            median_suspected_rows=quantile(suspected, servers, 0.5),
        )


class StakesResult(RecordPart):
    """What a test with another largest stake does on independent rows of one caller."""

    largest: float
    """As lambda · epsilon."""
    epsilon: float
    risk: float
    revoked: int
    median_rows: int | None


class MonitorRecord(RecordPart):
    """The whole simulation."""

    seed: int
    delta: float
    stakes: tuple[float, float, int]
    """The smallest and the largest, as lambda · epsilon, and how many."""
    least_differing: int
    lone_caller_rows: int
    most_callers: int
    stakes_servers: int
    stakes_rows: int
    versions: dict[str, str]
    results: tuple[Result, ...]
    other_stakes: tuple[StakesResult, ...]

    def find(self, name: str, epsilon: float, risk: float | None = None) -> Result:
        """Return the result of a scenario."""
        (found,) = (
            each for each in self.results if (each.name, each.epsilon, each.risk) == (name, epsilon, risk)
        )
        return found


def quantile(reached: Sequence[int], servers: int, share: float) -> int | None:
    """Return the rows after which that share of the servers had reached it; None where fewer ever did."""
    needed = ceil(share * servers)
    return sorted(reached)[needed - 1] if needed <= len(reached) else None


def read(path: Path) -> MonitorRecord:
    """Read a record."""
    return MonitorRecord.model_validate_json(path.read_text())
