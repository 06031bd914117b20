"""The comparison's part of docs/performance.md."""

from collections.abc import Iterator
from statistics import median

from bench.publication import DOCS, Publication
from bench.serving.record import OPEN_LOOP, Comparison, NetworkRecord
from training.reporting.markdown import WrittenPart, header, row


def lines(comparison: Comparison) -> Iterator[str]:
    """Yield the comparison's part of the page."""
    versions = ", ".join(f"{name} {number}" for name, number in comparison.versions.items())
    spreads = [
        cell.spread
        for network in comparison.networks
        for load, cells in network.loads.items()
        for cell in cells.values()
        if load != OPEN_LOOP
    ]
    yield f"Measured on {comparison.date}: {comparison.hardware}. {versions}."
    yield ""
    yield (
        f"Figures are medians of {comparison.rounds} interleaved rounds. A ratio is the median of the "
        f"rounds' own ratios, with the lowest and the highest in brackets. Within one cell, "
        f"the throughputs of the rounds differ by {median(spreads):.0%} (median of the cells) and by at most "
        f"{max(spreads):.0%}."
    )
    for network in comparison.networks:
        yield ""
        yield from _network(network, comparison.cores)


def _network(network: NetworkRecord, cores: int) -> Iterator[str]:
    total = sum(network.multiply_adds)
    parts = " / ".join(f"{part / total:.0%}" for part in network.multiply_adds)
    milliseconds = " / ".join(f"{each:.3f}" for each in network.row_milliseconds)
    exits = " / ".join(f"{share:.0%}" for share in network.exit_shares)
    share = network.stage_milliseconds(is_balanced=True) / network.stage_milliseconds(is_balanced=False)
    yield f"### {network.name}: {total / 1e6:.0f} M multiply-adds"
    yield ""
    yield f"- Multiply-adds by stage: {parts}."
    yield f"- Milliseconds a row by stage, in an efficient batch on one core: {milliseconds}."
    yield f"- Rows that leave at each exit at `balanced`: {exits}; {share:.0%} of the full network's time."
    yield ""
    yield from table(network, cores)


def table(network: NetworkRecord, cores: int) -> Iterator[str]:
    """Yield a line for each load and contender."""
    titles = ["load", "server", "rows/s", "of the limit", "p50 ms", "p99 ms", "server CPU ms/request"]
    yield header(*titles, "rows/s over baseline")
    for load, cells in network.loads.items():
        for number, (contender, cell) in enumerate(cells.items()):
            limit = 1e3 * cores / network.stage_milliseconds(contender.endswith("balanced"))
            yield row(
                load if number == 0 else "",
                contender,
                f"{cell.rows_per_second:,.0f}",
                f"{cell.rows_per_second / limit:.0%}",
                f"{cell.p50_milliseconds:.2f}",
                f"{cell.p99_milliseconds:.2f}",
                f"{cell.server_cpu_milliseconds:.2f}",
                "" if cell.ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(*cell.ratio),
            )


PUBLICATION = Publication(
    record_type=Comparison,
    path=DOCS / "performance" / "serving.json",
    page=DOCS / "performance.md",
    part=WrittenPart("comparison", "make bench"),
    lines=lines,
)
