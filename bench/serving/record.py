"""What a comparison measured, as it is kept in docs/performance/serving.json, and the sums made of it."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.serving.load import Load, LoadResult
from training.reporting.record import RecordPart

BALANCED, EXACT = "Offramp native balanced", "Offramp native exact"
GRPCIO_BALANCED, GRPCIO_EXACT = "Offramp grpcio balanced", "Offramp grpcio exact"
STICK_BALANCED, STICK_EXACT = "stick balanced", "stick exact"
TRITON, MLSERVER, PLAIN = "Triton (Python backend)", "MLServer", "plain grpc.aio"
OFFRAMP = (BALANCED, EXACT, GRPCIO_BALANCED, GRPCIO_EXACT)
CONTENDERS = (*OFFRAMP, STICK_BALANCED, STICK_EXACT, TRITON, MLSERVER, PLAIN)
OPERATING_POINT = {name: name.split()[-1] for name in (*OFFRAMP, STICK_BALANCED, STICK_EXACT)}


class Sample(RecordPart):
    """One run of one load on one contender."""

    network: str
    contender: str
    round: int
    load: Load
    measured: LoadResult


class NetworkRecord(RecordPart):
    """What is known of a network before any load."""

    name: str
    multiply_adds: tuple[int, ...]
    """Of each stage, for one row."""
    row_milliseconds: tuple[float, ...]
    """Of each stage, in an efficient batch on one core."""
    exit_shares: dict[str, tuple[float, ...]]
    """Of the load's images, by operating point."""
    triton_instances: str
    """The setting of Triton's that was fastest in a trial."""

    def stage_milliseconds(self, operating_point: str) -> float:
        """Return what a row costs a core on average: each stage's time, by the share that comes to it."""
        shares = self.exit_shares[operating_point]
        return sum(
            sum(shares[number:]) * milliseconds for number, milliseconds in enumerate(self.row_milliseconds)
        )


class Comparison(RecordPart):
    """A whole comparison."""

    date: str
    hardware: str
    cores: int
    versions: dict[str, str]
    rounds: int
    networks: tuple[NetworkRecord, ...] = ()
    samples: tuple[Sample, ...] = ()

    def of(self, network: str, contender: str, load: Load | None) -> dict[int, LoadResult]:
        """Return what the rounds of one cell measured; without a load, those of the open loop."""
        return {
            sample.round: sample.measured
            for sample in self.samples
            if (sample.network, sample.contender) == (network, contender)
            and (sample.load == load if load else sample.load.requests_per_second is not None)
        }

    def loads(self) -> list[Load]:
        """List the closed-loop loads, smallest first."""
        loads = {sample.load for sample in self.samples if sample.load.requests_per_second is None}
        return sorted(loads, key=lambda load: (load.rows, load.concurrency))

    def figures(self, network: str, contender: str, load: Load | None, name: str) -> dict[int, float]:
        """Return one figure of a cell, by round."""
        cell = self.of(network, contender, load)
        return {number: float(getattr(measured, name)) for number, measured in cell.items()}

    def middle(self, network: str, contender: str, load: Load | None, name: str) -> float:
        """Return the median over rounds of one figure of a cell."""
        return median(self.figures(network, contender, load, name).values())

    def ratio(self, network: str, contender: str, load: Load | None, name: str, over: str = TRITON) -> float:
        """Return the median over rounds of how a figure compares with another contender's in its round."""
        ours = self.figures(network, contender, load, name)
        theirs = self.figures(network, over, load, name)
        return median(ours[number] / theirs[number] for number in ours.keys() & theirs.keys())


def read(path: Path) -> Comparison:
    """Read a comparison."""
    return Comparison.model_validate_json(path.read_bytes())


def spread(values: Sequence[float]) -> float:
    """Return how far apart the rounds lie, over their median."""
    return (max(values) - min(values)) / median(values)
