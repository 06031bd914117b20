"""Writes a comparison into docs/performance.md: its tables, and each aim with what was reached."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.serving.load import Load
from bench.serving.record import (
    CONTENDERS,
    ECHO,
    OFFRAMP,
    OPERATING_POINT,
    TRITON,
    Comparison,
    NetworkRecord,
    spread,
)
from bench.table import row, rule

BEGIN, END = "<!-- comparison: written by `make bench` -->", "<!-- end of comparison -->"
README_BEGIN, README_END = "<!-- performance: written by `make bench` -->", "<!-- end of performance -->"
EXACT, BALANCED, FAST = OFFRAMP


def write(page: Path, readme: Path, comparison: Comparison) -> None:
    """Write a comparison into its places on both pages."""
    replace(page, BEGIN, END, lines(comparison))
    replace(readme, README_BEGIN, README_END, summary(comparison))


def replace(path: Path, begin: str, end: str, written: Iterable[str]) -> None:
    """Replace what lies between two comments of a page; raise SystemExit where they are not there."""
    before, found, rest = path.read_text().partition(begin)
    _, found_too, after = rest.partition(end)
    if not (found and found_too):
        raise SystemExit(f"{path}: expected the comments {begin} and {end}")
    path.write_text(f"{before}{begin}\n" + "\n".join(written) + f"\n{end}{after}")


def summary(comparison: Comparison) -> Iterator[str]:
    """Give the README's part: `balanced` and `exact` beside Triton, by load."""
    loads = comparison.loads()
    yield (
        f"Throughput over that of a Triton server with the full network, by rows a request x requests "
        f"outstanding ({comparison.hardware}, {comparison.cores} cores that the load generator shares; "
        f"Triton's Python backend; medians of {comparison.rounds} interleaved rounds; in brackets p50 over "
        "Triton's):"
    )
    yield ""
    yield row("network", "operating point", *[_place(load) for load in loads])
    yield rule(2 + len(loads))
    for network in comparison.networks:
        for contender in (BALANCED, EXACT):
            name = f"{network.name}, {sum(network.multiply_adds) / 1e6:.0f} M multiply-adds"
            yield row(
                name if contender == BALANCED else "",
                f"`{OPERATING_POINT[contender]}`",
                *[_beside_triton(comparison, network, contender, load) for load in loads],
            )
    yield ""
    yield (
        "`released` is the model above. The other two are untrained, and 60 / 20 / 12 / 8 % of their rows "
        "leave at each exit. [Performance](docs/performance.md) has MLServer, a servicer written by hand and "
        "the limit beside it, every aim that was missed, and where the time goes; `make bench` measures it."
    )


def _beside_triton(comparison: Comparison, network: NetworkRecord, contender: str, load: Load) -> str:
    throughput, p50 = (
        comparison.ratio(network.name, contender, load, figure)
        for figure in ("rows_per_second", "p50_milliseconds")
    )
    return f"{throughput:.2f} ({p50:.2f})"


def lines(comparison: Comparison) -> Iterator[str]:
    """Give the whole part of the page."""
    yield from conditions(comparison)
    yield ""
    yield "![Throughput by load](performance/serving.svg)"
    yield ""
    yield from aims(comparison)
    for network in comparison.networks:
        yield ""
        yield from table(comparison, network)


def conditions(comparison: Comparison) -> Iterator[str]:
    """Say where and how it was measured."""
    versions = ", ".join(f"{name} {number}" for name, number in comparison.versions.items())
    spreads = [
        spread(comparison.figure(network.name, contender, load, "rows_per_second"))
        for network in comparison.networks
        for contender in CONTENDERS
        for load in comparison.loads()
    ]
    yield (
        f"Measured on {comparison.date}: {comparison.hardware}, {comparison.cores} cores, which server and "
        f"load generator share. {versions}. Medians of {comparison.rounds} interleaved rounds; the rounds of "
        f"a throughput lie {median(spreads):.0%} apart in the median and {max(spreads):.0%} at most. Ratios "
        "are medians of the rounds' own ratios. Triton means its Python backend with the full network in "
        "onnxruntime and dynamic batching, in the best of three instance settings; its native backend can't "
        "be had from a package index and may be faster."
    )


@dataclass(frozen=True)
class Aim:
    """What was aimed at, and the loads that reached it."""

    text: str
    bound: float
    at_least: bool
    reached: dict[str, float]
    """By network and load."""

    def met(self, value: float) -> bool:
        """Whether a figure is on the right side."""
        return value >= self.bound if self.at_least else value <= self.bound

    def line(self) -> str:
        """Give the aim's line of the table."""
        values = list(self.reached.values())
        met = sum(self.met(value) for value in values)
        worst_of = min if self.at_least else max
        worst = worst_of(self.reached, key=lambda place: self.reached[place])
        verdict = "met" if met == len(values) else f"**missed** at {len(values) - met} of {len(values)}"
        return row(self.text, verdict, f"{median(values):.2f}", f"{self.reached[worst]:.2f} ({worst})")


def aims(comparison: Comparison) -> Iterator[str]:
    """Say of each aim whether it was met."""
    yield row("aim", "", "median", "worst")
    yield rule(4)
    for aim in _aims(comparison):
        if aim.reached:
            yield aim.line()


def _aims(comparison: Comparison) -> Iterator[Aim]:
    heavy = [network for network in comparison.networks if network.name == "heavy"]
    light = [network for network in comparison.networks if network.name != "heavy"]
    both = [*light, *heavy]
    loads = comparison.loads()
    many_rows = [load for load in loads if load.rows > 1]

    def cells(
        networks: list[NetworkRecord], over: list[Load], value: Callable[[NetworkRecord, Load], float]
    ) -> dict[str, float]:
        return {f"{each.name}, {_place(load)}": value(each, load) for each in networks for load in over}

    def ratio(contender: str, figure: str) -> Callable[[NetworkRecord, Load], float]:
        return lambda network, load: comparison.ratio(network.name, contender, load, figure)

    def of_limit(contender: str) -> Callable[[NetworkRecord, Load], float]:
        return lambda network, load: _share_of_limit(comparison, network, contender, load)

    throughput, p50 = "rows_per_second", "p50_milliseconds"
    yield Aim(
        "heavy: `balanced` at least 2.5 x Triton's throughput",
        2.5,
        True,
        cells(heavy, loads, ratio(BALANCED, throughput)),
    )
    yield Aim(
        "heavy: `balanced` at most half of Triton's p50",
        0.5,
        False,
        cells(heavy, loads, ratio(BALANCED, p50)),
    )
    yield Aim(
        "heavy: `exact` at least Triton's throughput",
        1.0,
        True,
        cells(heavy, loads, ratio(EXACT, throughput)),
    )
    yield Aim(
        "released, wide: `balanced` at least Triton's throughput",
        1.0,
        True,
        cells(light, loads, ratio(BALANCED, throughput)),
    )
    yield Aim(
        "released, wide: `balanced` at 8 rows at least 1.5 x Triton's throughput",
        1.5,
        True,
        cells(light, many_rows, ratio(BALANCED, throughput)),
    )
    yield Aim(
        "released, wide: `balanced` at least 0.8 x the limit",
        0.8,
        True,
        cells(light, loads, of_limit(BALANCED)),
    )
    yield Aim(
        "`balanced`: processor time a request at most 1.2 x echo and stages",
        1.2,
        False,
        cells(both, loads, lambda network, load: _cpu_over_least(comparison, network, load)),
    )
    yield Aim(
        "`balanced`, 1 row: p99 at 80 % of peak load at most 4 x the unloaded p50",
        4.0,
        False,
        {network.name: _tail(comparison, network) for network in both},
    )


def _place(load: Load) -> str:
    return f"{load.rows} row{'s' if load.rows > 1 else ''} x {load.concurrency}"


def _share_of_limit(comparison: Comparison, network: NetworkRecord, contender: str, load: Load) -> float:
    limit = comparison.limit(network, OPERATING_POINT[contender], load)
    return comparison.middle(network.name, contender, load, "rows_per_second") / limit


def _cpu_over_least(comparison: Comparison, network: NetworkRecord, load: Load) -> float:
    least = comparison.middle(network.name, ECHO, load, "server_cpu_milliseconds")
    least += load.rows * network.stage_milliseconds("balanced")
    return comparison.middle(network.name, BALANCED, load, "server_cpu_milliseconds") / least


def _tail(comparison: Comparison, network: NetworkRecord) -> float:
    unloaded = comparison.middle(network.name, BALANCED, Load(rows=1, concurrency=1), "p50_milliseconds")
    loaded = [
        sample.measured.p99_milliseconds
        for sample in comparison.samples
        if sample.network == network.name and sample.load.requests_per_second is not None
    ]
    return median(loaded) / unloaded


def table(comparison: Comparison, network: NetworkRecord) -> Iterator[str]:
    """Give one network's table: a line a load and contender."""
    total = sum(network.multiply_adds)
    shares = " / ".join(f"{share / total:.0%}" for share in network.multiply_adds)
    milliseconds = " / ".join(f"{each:.3f}" for each in network.row_milliseconds)
    leave = " / ".join(f"{share:.0%}" for share in network.exit_shares["balanced"])
    cost = network.stage_milliseconds("balanced") / network.stage_milliseconds("exact")
    trained = (
        "" if network.name == "released" else " Untrained, its thresholds are quantiles of its confidences."
    )
    yield f"### {network.name}: {total / 1e6:.0f} M multiply-adds in stages of {shares}"
    yield ""
    yield (
        f"{milliseconds} ms a row and stage in an efficient batch on one core. At `balanced` {leave} of the "
        f"rows leave at each exit, which takes {cost:.0%} of the full network's time.{trained} "
        f"Triton: {network.triton_instances}."
    )
    yield ""
    yield row(
        "load",
        "server",
        "rows/s",
        "p50 ms",
        "p99 ms",
        "server CPU ms/request",
        "throughput / Triton",
        "of limit",
    )
    yield rule(8)
    for load in comparison.loads():
        for contender in (*CONTENDERS, ECHO):
            yield _table_line(comparison, network, load, contender)


def _table_line(comparison: Comparison, network: NetworkRecord, load: Load, contender: str) -> str:
    def middle(figure: str) -> float:
        return comparison.middle(network.name, contender, load, figure)

    against = (
        ""
        if contender in (TRITON, ECHO)
        else (f"{comparison.ratio(network.name, contender, load, 'rows_per_second'):.2f}")
    )
    limit = ""
    if contender in OFFRAMP:
        limit = f"{_share_of_limit(comparison, network, contender, load):.2f}"
    return row(
        _place(load) if contender == CONTENDERS[0] else "",
        contender,
        f"{middle('rows_per_second'):,.0f}",
        f"{middle('p50_milliseconds'):.2f}",
        f"{middle('p99_milliseconds'):.2f}",
        f"{middle('server_cpu_milliseconds'):.2f}",
        against,
        limit,
    )
