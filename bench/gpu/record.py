"""The record of a run on a GPU machine, its faults, and its part of docs/performance.md."""

from collections.abc import Iterator, Sequence

from bench.publication import DOCS, Publication
from training.reporting.markdown import WrittenPart, header, row
from training.reporting.record import RecordPart


class StageProfile(RecordPart):
    """Where the nodes of one stage ran."""

    network: str
    device: str
    stage: int
    nodes: dict[str, int]
    """Number of nodes, by execution provider."""
    copies: dict[str, bool]
    """Copies between host and device, by name and shape; True if the tensor has the shape of a feature."""


class DeviceStages(RecordPart):
    """The stages of a network on a device: their logits compared with the CPU's, and their times."""

    network: str
    device: str
    rows: int
    largest_logit: float
    largest_difference: float
    labels_that_differ: int
    batch_rows: tuple[int, ...]
    milliseconds: tuple[tuple[float, ...], ...]
    """For each stage, one time for each of batch_rows."""


class LoadCell(RecordPart):
    """Throughput and p50 at one load."""

    where: str
    """The front end, or `in process` without gRPC."""
    network: str
    device: str
    point: str
    load: str
    rows_per_second: float
    p50_milliseconds: float | None = None


class GpuRecord(RecordPart):
    """All figures that were measured so far."""

    conditions: dict[str, str]
    profiles: tuple[StageProfile, ...] = ()
    stages: tuple[DeviceStages, ...] = ()
    cells: tuple[LoadCell, ...] = ()
    failures: tuple[str, ...] = ()
    """The parts that were not measured, with the reason."""

    def faults(self) -> list[str]:
        """Return the faults: failed parts, nodes or features on the wrong device, labels that differ."""
        found = list(self.failures)
        for profile in self.profiles:
            stage = f"{profile.network} stage {profile.stage} on {profile.device}"
            if profile.device == "cuda" and not profile.nodes.get("CUDAExecutionProvider"):
                found.append(f"{stage}: no node ran on CUDA")
            found += [f"{stage}: copies features: {name}" for name, large in profile.copies.items() if large]
        for each in self.stages:
            if each.labels_that_differ:
                differing = f"{each.labels_that_differ} labels differ from the CPU's"
                found.append(f"{each.network} on {each.device}: {differing}")
        return found


def lines(record: GpuRecord) -> Iterator[str]:
    """Yield the tables."""
    yield "Conditions: " + ", ".join(f"{name} {value}" for name, value in record.conditions.items()) + "."
    yield f"Faults: {'; '.join(record.faults()) or 'none'}."
    yield ""
    yield header("logits of", "device", "rows", "largest logit", "largest difference", "labels that differ")
    for each in record.stages:
        if each.device == "cpu":
            continue
        figures = f"{each.largest_logit:.3g}", f"{each.largest_difference:.2g}", f"{each.labels_that_differ}"
        yield row(each.network, each.device, f"{each.rows:,}", *figures)
    yield ""
    yield header("milliseconds of", "device", "rows", "stage 0", "stage 1", "stage 2", "stage 3")
    for each in record.stages:
        times = [" / ".join(f"{one:.3g}" for one in stage) for stage in each.milliseconds]
        yield row(each.network, each.device, " / ".join(map(str, each.batch_rows)), *times)
    yield ""
    yield from _cells(record.cells)


def _cells(cells: Sequence[LoadCell]) -> Iterator[str]:
    """Yield a table with a column for each device."""
    devices = list(dict.fromkeys(each.device for each in cells))
    yield header("rows a second", "network", "operating point", "load", *devices)
    figures: dict[tuple[str, ...], dict[str, str]] = {}
    for each in cells:
        p50 = "" if each.p50_milliseconds is None else f", p50 {each.p50_milliseconds:.2f} ms"
        key = (each.where, each.network, f"`{each.point}`", each.load)
        figures.setdefault(key, {})[each.device] = f"{each.rows_per_second:,.0f}{p50}"
    for titles, by_device in figures.items():
        yield row(*titles, *[by_device.get(device, "") for device in devices])


PUBLICATION = Publication(
    record_type=GpuRecord,
    path=DOCS / "performance" / "gpu.json",
    page=DOCS / "performance.md",
    part=WrittenPart("gpu", "python -m bench.gpu"),
    lines=lines,
)
