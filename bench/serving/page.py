"""Writes a comparison into its place in docs/performance.md."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench.serving import aims
from bench.serving.aims import CPU, P99, THROUGHPUT
from bench.serving.load import Load
from bench.serving.record import (
    BALANCED,
    CONTENDERS,
    OPERATING_POINT,
    TRITON,
    Comparison,
    NetworkRecord,
    spread,
)
from training.reporting.markdown import WrittenPart, row, rule

PART = WrittenPart("comparison", "make bench")


def write(path: Path, comparison: Comparison) -> None:
    """Write a comparison into its place on the page."""
    PART.write(path, lines(comparison))


def lines(comparison: Comparison) -> Iterator[str]:
    """Yield the whole part of docs/performance.md."""
    yield from conditions(comparison)
    yield ""
    yield "![Throughput by load](performance/serving.svg)"
    yield ""
    yield from aims.lines(comparison)
    yield from tables(comparison)


def conditions(comparison: Comparison) -> Iterator[str]:
    """Yield where and how it was measured."""
    versions = ", ".join(f"{name} {number}" for name, number in comparison.versions.items())
    spreads = [
        spread(list(comparison.figures(network.name, contender, load, THROUGHPUT).values()))
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
        "be had from a package index and may be faster. The stick is a server of our own that does nothing "
        "but the work."
    )


def tables(comparison: Comparison) -> Iterator[str]:
    """Yield each network's table: a line a load and contender."""
    for network in comparison.networks:
        yield ""
        yield from _table(comparison, network)


def _table(comparison: Comparison, network: NetworkRecord) -> Iterator[str]:
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
    yield row("load", "server", "rows/s", "p50 ms", "p99 ms", "server CPU ms/request", "/ Triton", "/ stick")
    yield rule(8)
    for load in comparison.loads():
        for contender in CONTENDERS:
            shown = load.name if contender == CONTENDERS[0] else ""
            yield _table_line(comparison, network.name, load, contender, shown)
    for contender in (BALANCED, TRITON):
        shown = aims.OPEN_LOOP if contender == BALANCED else ""
        yield _table_line(comparison, network.name, None, contender, shown)


def _table_line(comparison: Comparison, network: str, load: Load | None, contender: str, shown: str) -> str:
    def middle(figure: str) -> float:
        return comparison.middle(network, contender, load, figure)

    def over(other: str | None) -> str:
        if load is None or other in (None, contender):
            return ""
        return f"{comparison.ratio(network, contender, load, THROUGHPUT, str(other)):.2f}"

    point = OPERATING_POINT.get(contender)
    return row(
        shown,
        contender,
        f"{middle(THROUGHPUT):,.0f}",
        f"{middle('p50_milliseconds'):.2f}",
        f"{middle(P99):.2f}",
        f"{middle(CPU):.2f}",
        over(TRITON),
        over(f"stick {point}" if point else None),
    )
