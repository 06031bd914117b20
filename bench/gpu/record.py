"""What a run on a GPU machine recorded."""

from pydantic import BaseModel

from training.reporting.record import RecordPart

POINTS = ("exact", "balanced")


class Copy(RecordPart):
    """A copy between host and device that onnxruntime put into a stage's graph."""

    name: str
    shapes: str
    """Of what it gives, as onnxruntime writes them."""
    features: bool
    """Whether it is as large as a feature of the stage, and neither logits nor an input."""


class Profile(RecordPart):
    """Where the nodes of one stage ran."""

    network: str
    device: str
    stage: int
    nodes: dict[str, int]
    """By execution provider."""
    copies: tuple[Copy, ...]


class DeviceParity(RecordPart):
    """How far a device's logits are from the CPU's, over all exits."""

    network: str
    device: str
    rows: int
    largest_logit: float
    largest_difference: float
    labels_that_differ: int


class StageTimes(RecordPart):
    """Milliseconds of each stage, an entry for each number of rows."""

    network: str
    device: str
    rows: tuple[int, ...]
    milliseconds: tuple[tuple[float, ...], ...]


class Cell(RecordPart):
    """Throughput and p50 at one load."""

    where: str
    """in process, native or grpcio."""
    network: str
    device: str
    point: str
    rows: int
    """Of a request."""
    outstanding: int
    rows_per_second: float
    p50_milliseconds: float


class Merge(RecordPart):
    """Throughput where survivors wait for each other, and where the deepest stage always goes first."""

    network: str
    device: str
    rows: int
    outstanding: int
    merged: float
    """Rows a second."""
    not_merged: float


class EpochTime(RecordPart):
    """One epoch of training the released recipe's first generation, on random images."""

    device: str
    precision: str
    rows: int
    steps: int
    seconds: float


class GpuRecord(BaseModel):
    """All that was measured so far."""

    conditions: dict[str, str]
    profiles: list[Profile] = []
    parity: list[DeviceParity] = []
    stages: list[StageTimes] = []
    cells: list[Cell] = []
    merges: list[Merge] = []
    epochs: list[EpochTime] = []
    seconds: dict[str, float] = {}
    """What each part took."""
    failures: dict[str, str] = {}
    """Parts that were not measured, and why."""

    def faults(self) -> list[str]:
        """Return what is wrong, a line each: parts that failed, nodes or features in the wrong place."""
        found = [f"{part}: {why}" for part, why in self.failures.items()]
        for each in self.profiles:
            where = f"{each.network} stage {each.stage} on {each.device}"
            if each.device == "cuda" and not each.nodes.get("CUDAExecutionProvider"):
                found.append(f"{where}: no node ran on CUDA")
            found += [
                f"{where}: copies features: {copy.name} {copy.shapes}"
                for copy in each.copies
                if copy.features
            ]
        found += [
            f"{each.network} on {each.device}: {each.labels_that_differ} labels differ from the CPU's"
            for each in self.parity
            if each.labels_that_differ
        ]
        return found
