"""Writes docs/performance.md's part from a record: `python -m bench.gpu.page FILE.json`."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from bench.gpu.record import Cell, GpuRecord
from training.reporting.markdown import WrittenPart, row, rule

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
PART = WrittenPart("gpu", "python -m bench.gpu.page")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.page", description=__doc__)
    parser.add_argument("record", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    PART.write(PAGE, lines(GpuRecord.model_validate_json(options.record.read_bytes())))


def lines(record: GpuRecord) -> Iterator[str]:
    """Yield the part of the page."""
    shown = ", ".join(f"{name} {value}" for name, value in record.conditions.items())
    yield f"Measured by `python -m bench.gpu`: {shown}. {sum(record.seconds.values()):.0f} s in all."
    yield ""
    yield f"Faults: {'; '.join(record.faults()) or 'none'}."
    for part in (_profiles, _parity, _stages, _in_process, _through_grpc, _merges, _epochs):
        yield ""
        yield from part(record)


def _profiles(record: GpuRecord) -> Iterator[str]:
    yield row("network", "device", "stage", "nodes by provider", "copies between host and device")
    yield rule(5)
    for each in record.profiles:
        nodes = ", ".join(f"{provider} {count}" for provider, count in each.nodes.items())
        copies = ", ".join(f"{copy.name} {copy.shapes}" for copy in each.copies)
        yield row(each.network, each.device, str(each.stage), nodes, copies or "none")


def _parity(record: GpuRecord) -> Iterator[str]:
    yield row("network", "device", "rows", "largest logit", "largest difference", "labels that differ")
    yield rule(6)
    for each in record.parity:
        figures = (
            f"{each.largest_logit:.3g}",
            f"{each.largest_difference:.2g}",
            str(each.labels_that_differ),
        )
        yield row(each.network, each.device, f"{each.rows:,}", *figures)


def _stages(record: GpuRecord) -> Iterator[str]:
    if record.stages:
        rows = " / ".join(map(str, record.stages[0].rows))
        count = max(len(each.milliseconds) for each in record.stages)
        yield f"Milliseconds of a stage at {rows} rows, one thread on the CPU:"
        yield ""
        yield row("network", "device", *[f"stage {stage}" for stage in range(count)])
        yield rule(2 + count)
    for each in record.stages:
        times = [" / ".join(f"{one:.3g}" for one in stage) for stage in each.milliseconds]
        yield row(each.network, each.device, *times)


def _in_process(record: GpuRecord) -> Iterator[str]:
    yield from _cells([each for each in record.cells if each.where == "in process"])


def _through_grpc(record: GpuRecord) -> Iterator[str]:
    yield from _cells([each for each in record.cells if each.where != "in process"])


def _cells(cells: list[Cell]) -> Iterator[str]:
    """Yield a table in which the devices stand side by side."""
    devices = list(dict.fromkeys(each.device for each in cells))
    yield "Rows a second, p50 in milliseconds:"
    yield ""
    yield row("where", "network", "operating point", "rows x requests outstanding", *devices)
    yield rule(4 + len(devices))
    found: dict[tuple[str, ...], dict[str, Cell]] = {}
    for each in cells:
        load = f"{each.rows} x {each.outstanding}"
        found.setdefault((each.where, each.network, f"`{each.point}`", load), {})[each.device] = each
    for names, of_device in found.items():
        yield row(*names, *[_figures(of_device.get(device)) for device in devices])


def _figures(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.rows_per_second:,.0f}, {cell.p50_milliseconds:.2f}"


def _merges(record: GpuRecord) -> Iterator[str]:
    yield row("network", "device", "`balanced`, rows x requests outstanding", "merged", "not", "ratio")
    yield rule(6)
    for each in record.merges:
        figures = (f"{each.merged:,.0f}", f"{each.not_merged:,.0f}", f"{each.merged / each.not_merged:.2f}")
        yield row(each.network, each.device, f"{each.rows} x {each.outstanding}", *figures)


def _epochs(record: GpuRecord) -> Iterator[str]:
    yield row("an epoch on", "rows", "steps", "seconds", "rows a second")
    yield rule(5)
    for each in record.epochs:
        figures = (
            f"{each.rows:,}",
            str(each.steps),
            f"{each.seconds:.2f}",
            f"{each.rows / each.seconds:,.0f}",
        )
        yield row(each.precision, *figures)


if __name__ == "__main__":
    main()
