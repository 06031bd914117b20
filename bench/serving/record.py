"""What a comparison measured, as it is kept in docs/performance/serving.json, and the sums made of it."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from pydantic import BaseModel, ConfigDict

from bench.serving.load import Load, Measured

OFFRAMP = ("Offramp exact", "Offramp balanced", "Offramp fast")
TRITON, MLSERVER, PLAIN, ECHO = "Triton (Python backend)", "MLServer", "plain grpc.aio", "echo"
CONTENDERS = (*OFFRAMP, TRITON, MLSERVER, PLAIN)
OPERATING_POINT = {name: name.split()[-1] for name in OFFRAMP}


class Section(BaseModel):
    """A part of the record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sample(Section):
    """One run of one load on one contender."""

    network: str
    contender: str
    round: int
    load: Load
    measured: Measured


class NetworkRecord(Section):
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
        """Give what a row costs a core on average: each stage's time, by the share that comes to it."""
        shares = self.exit_shares[operating_point]
        return sum(
            sum(shares[number:]) * milliseconds for number, milliseconds in enumerate(self.row_milliseconds)
        )


class Comparison(Section):
    """A whole comparison."""

    date: str
    hardware: str
    cores: int
    versions: dict[str, str]
    rounds: int
    networks: tuple[NetworkRecord, ...] = ()
    samples: tuple[Sample, ...] = ()

    def of(self, network: str, contender: str, load: Load) -> list[Measured]:
        """Give what the rounds of one cell measured, in their order."""
        found = [
            sample
            for sample in self.samples
            if (sample.network, sample.contender, sample.load) == (network, contender, load)
        ]
        return [sample.measured for sample in sorted(found, key=lambda each: each.round)]

    def loads(self) -> list[Load]:
        """List the closed-loop loads, smallest first."""
        loads = {sample.load for sample in self.samples if sample.load.requests_per_second is None}
        return sorted(loads, key=lambda load: (load.rows, load.concurrency))

    def figure(self, network: str, contender: str, load: Load, name: str) -> list[float]:
        """Give one figure of a cell, a round each."""
        return [float(getattr(measured, name)) for measured in self.of(network, contender, load)]

    def middle(self, network: str, contender: str, load: Load, name: str) -> float:
        """Give the median over rounds of one figure of a cell."""
        return median(self.figure(network, contender, load, name))

    def ratio(self, network: str, contender: str, load: Load, name: str, over: str = TRITON) -> float:
        """Give the median over rounds of how a figure compares with another contender's in its round."""
        pairs = zip(
            self.figure(network, contender, load, name), self.figure(network, over, load, name), strict=True
        )
        return median(ours / theirs for ours, theirs in pairs)

    def limit(self, network: NetworkRecord, operating_point: str, load: Load) -> float:
        """Give the rows a second beyond which nothing can go that speaks gRPC in Python and runs the stages.

        Either all cores do nothing but echo and stages; or the callers wait for an echo and for stages
        that have all cores to themselves.
        """
        stages = network.stage_milliseconds(operating_point) * load.rows
        echo_cpu = self.middle(network.name, ECHO, load, "server_cpu_milliseconds")
        echo = self.middle(network.name, ECHO, Load(rows=load.rows, concurrency=1), "p50_milliseconds")
        by_cores = self.cores / (echo_cpu + stages)
        by_callers = load.concurrency / (echo + stages / self.cores)
        return 1e3 * load.rows * min(by_cores, by_callers)


def read(path: Path) -> Comparison:
    """Read a comparison."""
    return Comparison.model_validate_json(path.read_bytes())


def spread(values: Sequence[float]) -> float:
    """Give how far apart the rounds lie, over their median."""
    return (max(values) - min(values)) / median(values)
