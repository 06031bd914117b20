"""The record of a comparison: medians and spread for each network, load and contender."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from training.reporting.record import RecordPart

OPEN_LOOP = "1 row, open loop at 80 % of Triton's peak"


@dataclass(frozen=True)
class Load:
    """The requests that a server gets."""

    rows: int
    """Rows per request."""
    outstanding: int
    """Requests outstanding at any time; in an open loop, the most."""
    requests_per_second: float | None = None
    """None for a closed loop. A number for an open loop with Poisson arrivals."""

    @property
    def name(self) -> str:
        """Rows per request, and requests outstanding."""
        return f"{self.rows} row{'s' if self.rows > 1 else ''} x {self.outstanding}"


class LoadResult(RecordPart):
    """The figures of one load on one server."""

    rows_per_second: float
    p50_milliseconds: float
    p99_milliseconds: float
    server_cpu_milliseconds: float
    """Processor time of the server's processes per request."""


class Cell(LoadResult):
    """One contender under one load: medians over the rounds."""

    spread: float
    """Highest minus lowest throughput of the rounds, divided by their median."""
    ratio: tuple[float, float, float] | None
    """Throughput divided by the baseline's, by round: median, lowest, highest. None without a baseline."""


class NetworkRecord(RecordPart):
    """One network: its stages, and a cell for each load and contender."""

    name: str
    multiply_adds: tuple[int, ...]
    """Multiply-adds of each stage, for one row."""
    row_milliseconds: tuple[float, ...]
    """Time of a row in each stage, in an efficient batch on one core."""
    exit_shares: tuple[float, ...]
    """The share of the load's images that leaves at each exit at `balanced`."""
    loads: dict[str, dict[str, Cell]]

    def stage_milliseconds(self, is_balanced: bool) -> float:
        """Return the stage time of a row on one core: at `balanced`, or in the full network."""
        if not is_balanced:
            return sum(self.row_milliseconds)
        reaching = [sum(self.exit_shares[stage:]) for stage in range(len(self.exit_shares))]
        return sum(share * each for share, each in zip(reaching, self.row_milliseconds, strict=True))


class Comparison(RecordPart):
    """A whole comparison."""

    date: str
    hardware: str
    cores: int
    versions: dict[str, str]
    rounds: int
    networks: tuple[NetworkRecord, ...]


def cell(rounds: Sequence[LoadResult], baseline: Sequence[LoadResult] = ()) -> Cell:
    """Summarise the rounds of a contender. baseline: the same rounds of the contender to compare with."""
    medians = {name: median(getattr(each, name) for each in rounds) for name in LoadResult.model_fields}
    speeds = [each.rows_per_second for each in rounds]
    ratios = [speed / base.rows_per_second for speed, base in zip(speeds, baseline, strict=False)]
    return Cell(
        **medians,
        spread=(max(speeds) - min(speeds)) / median(speeds),
        ratio=(median(ratios), min(ratios), max(ratios)) if ratios else None,
    )
