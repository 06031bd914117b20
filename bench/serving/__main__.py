"""Offramp beside Triton, MLServer and a plain servicer, by perf_analyzer, in interleaved rounds.

    python -m bench.serving                         everything: `make bench`
    python -m bench.serving --networks released --rounds 1 --output /tmp/trial

All servers of a network run at once and take turns under each load, so that a slow moment of the machine
falls on all of them. Writes serving.json, serving.svg and the tables of docs/performance.md.
"""

import argparse
import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import geometric_mean

import onnxruntime
from tqdm import tqdm

from bench.serving import environments, page, servers
from bench.serving.load import Load, Measured, measure
from bench.serving.networks import NAMES, ROOT, Network, load_images, prepare
from bench.serving.plot import plot
from bench.serving.record import (
    CONTENDERS,
    ECHO,
    MLSERVER,
    OFFRAMP,
    OPERATING_POINT,
    PLAIN,
    TRITON,
    Comparison,
    NetworkRecord,
    Sample,
)
from bench.serving.servers import Instances, Server
from serving.stages.devices import CPU
from serving.stages.blocks import open_stages

OUTPUT = ROOT / "docs" / "performance"
PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"
LOADS = [Load(rows=rows, concurrency=concurrency) for rows in (1, 8) for concurrency in (1, 8, 64)]
TRIAL_LOADS = (LOADS[0], LOADS[2], LOADS[4])
TRIAL_SECONDS = 0.4
WINDOW_SECONDS = {"released": 0.35, "wide": 0.35, "heavy": 0.8}
"""A heavy network answers few requests a second."""
SHARE_OF_PEAK = 0.8
OPEN_LOOP_THREADS = 16
MAX_BATCH_SIZE = 64


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default docs/performance")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    environments.make_all()
    images_NCHW = load_images()
    comparison = _conditions(options.rounds)
    cells = len(options.networks) * options.rounds * (len(LOADS) * (len(CONTENDERS) + 1) + 1)
    with tqdm(total=cells, unit="run", smoothing=0) as bar:
        for name in options.networks:
            with tempfile.TemporaryDirectory(prefix="offramp-bench-") as folder:
                bar.set_description(f"{name}: making ready")
                network = prepare(name, images_NCHW, Path(folder))
                known, samples = _compare(network, Path(folder), options.rounds, bar)
            comparison = comparison.model_copy(
                update={
                    "networks": (*comparison.networks, known),
                    "samples": (*comparison.samples, *samples),
                }
            )
            (options.output / "serving.json").write_text(comparison.model_dump_json(indent=1) + "\n")
    (options.output / "serving.svg").write_text(plot(comparison))
    if options.output == OUTPUT:
        page.write(PAGE, README, comparison)
    for line in page.aims(comparison):
        print(line)
    print(
        f"took {(time.monotonic() - started) / 60:.1f} minutes; the record is {options.output}/serving.json"
    )


def _conditions(rounds: int) -> Comparison:
    return Comparison(
        date=time.strftime("%Y-%m-%d"),
        hardware=f"{_processor()}, {platform.system()}",
        cores=len(os.sched_getaffinity(0)),
        versions={
            "Python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "grpcio": version("grpcio"),
            "Triton": "2.51.0 (nvidia-pytriton 0.7.0)",
            "MLServer": "1.7.1",
            "perf_analyzer": "2.41.1",
        },
        rounds=rounds,
    )


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.machine()


@dataclass(frozen=True)
class _Contender:
    name: str
    server: Server

    def run(self, load: Load, network: Network, seconds: float) -> Measured:
        point = OPERATING_POINT.get(self.name)
        return measure(self.server, load, network.images, window_seconds=seconds, operating_point=point)


def _compare(
    network: Network, folder: Path, rounds: int, bar: "tqdm[None]"
) -> tuple[NetworkRecord, list[Sample]]:
    bar.set_description(f"{network.name}: Triton's instances")
    instances = _best_instances(network, folder)
    known = _known(network, instances)
    seconds = WINDOW_SECONDS[network.name]
    samples: list[Sample] = []
    with _all_servers(network, folder, instances) as contenders:
        for number in range(rounds):
            for load in LOADS:
                for contender in _rotated(list(contenders.values()), number):
                    bar.set_description(f"{network.name}, round {number + 1}: {contender.name}")
                    measured = contender.run(load, network, seconds)
                    samples.append(_sample(network, contender, number, load, measured))
                    bar.update()
            balanced = contenders["Offramp balanced"]
            peak = max(
                each.measured.rows_per_second
                for each in samples
                if (each.contender, each.round, each.load.rows) == (balanced.name, number, 1)
            )
            load = Load(
                rows=1, concurrency=OPEN_LOOP_THREADS, requests_per_second=round(SHARE_OF_PEAK * peak)
            )
            measured = balanced.run(load, network, 2 * seconds)
            samples.append(_sample(network, balanced, number, load, measured))
            bar.update()
    return known, samples


def _sample(network: Network, contender: _Contender, number: int, load: Load, measured: Measured) -> Sample:
    return Sample(network=network.name, contender=contender.name, round=number, load=load, measured=measured)


def _rotated(contenders: Sequence[_Contender], places: int) -> Sequence[_Contender]:
    places %= len(contenders)
    return [*contenders[places:], *contenders[:places]]


@contextlib.contextmanager
def _all_servers(network: Network, folder: Path, instances: Instances) -> Iterator[Mapping[str, _Contender]]:
    with contextlib.ExitStack() as stack:
        offramp = stack.enter_context(servers.offramp(network, folder))
        found = dict.fromkeys(OFFRAMP, offramp)
        found[TRITON] = stack.enter_context(servers.triton(network, folder, instances))
        found[MLSERVER] = stack.enter_context(servers.mlserver(network, folder))
        found[PLAIN] = stack.enter_context(servers.plain(network, folder))
        found[ECHO] = stack.enter_context(servers.echo(folder))
        yield {name: _Contender(name, server) for name, server in found.items()}


def _best_instances(network: Network, folder: Path) -> Instances:
    """Try Triton with one instance that has all cores, and with an instance a core; take the faster."""
    cores = len(os.sched_getaffinity(0))
    settings = [Instances(1, cores), Instances(cores, 1), Instances(cores, cores)]

    def speed(instances: Instances) -> float:
        with servers.triton(network, folder, instances) as server:
            return geometric_mean(
                measure(server, load, network.images, window_seconds=TRIAL_SECONDS).rows_per_second
                for load in TRIAL_LOADS
            )

    return max(settings, key=speed)


def _known(network: Network, instances: Instances) -> NetworkRecord:
    _, costs = open_stages(
        network.version, CPU, max_batch_size=MAX_BATCH_SIZE, slots=MAX_BATCH_SIZE, lone_threads=1
    )
    stages = range(len(network.manifest.stages))
    return NetworkRecord(
        name=network.name,
        multiply_adds=tuple(stage.multiply_adds for stage in network.manifest.stages),
        row_milliseconds=tuple(costs.side_by_side.row_seconds(stage) * 1e3 for stage in stages),
        exit_shares=dict(network.exit_shares),
        triton_instances=f"{instances.count} of {instances.intra_op_threads} intra-op threads",
    )


if __name__ == "__main__":
    main()
