"""Offramp beside a measuring stick, Triton, MLServer and a plain servicer, by perf_analyzer.

    python -m bench.serving                         two networks, three rounds: `make bench`
    python -m bench.serving --networks released --rounds 1 --output /tmp/trial

All servers of a network run at once and take turns under each load, in rounds, so that a slow moment of
the machine falls on all of them. Writes serving.json, serving.svg, and the tables of docs/performance.md
and the README.
"""

import argparse
import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import geometric_mean

import onnxruntime
from tqdm import tqdm

from bench.serving import aims, environments, page, servers
from bench.serving.load import Load, LoadResult, measure
from bench.serving.networks import NAMES, ROOT, BenchNetwork, load_images, measure_costs, prepare
from bench.serving.plot import plot
from bench.serving.record import (
    BALANCED,
    CONTENDERS,
    MLSERVER,
    OFFRAMP,
    OPERATING_POINT,
    PLAIN,
    STICK_BALANCED,
    STICK_EXACT,
    TRITON,
    Comparison,
    NetworkRecord,
    Sample,
)
from bench.serving.servers import Instances, RunningServer

OUTPUT = ROOT / "docs" / "performance"
PAGE = ROOT / "docs" / "performance.md"
LOADS = [Load(rows=rows, concurrency=concurrency) for rows in (1, 8) for concurrency in (1, 8, 64)]
TRIAL_LOADS = (LOADS[0], LOADS[2], LOADS[4])
TRIAL_SECONDS = 0.4
WINDOW_SECONDS = {"released": 0.35, "wide": 0.35, "heavy": 0.8}
"""A heavy network answers few requests a second."""
SHARE_OF_PEAK = 0.8
OPEN_LOOP_THREADS = 16
DEFAULT_NETWORKS = ("released", "heavy")
A_ROUND_LESS = (MLSERVER, PLAIN)
"""Contenders that no aim is about are measured in one round less, where there are several."""


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=DEFAULT_NETWORKS, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default docs/performance")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    environments.make_all()
    images_NCHW = load_images()
    comparison = _conditions(options.rounds)
    turns = sum(len(_in_round(CONTENDERS, number, options.rounds)) for number in range(options.rounds))
    cells = len(options.networks) * (len(LOADS) * turns + 2 * options.rounds)
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
        page.write(PAGE, comparison)
    for line in (*aims.lines(comparison), *page.tables(comparison)):
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
            "pygrpc-native": version("pygrpc-native"),
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


def _compare(
    network: BenchNetwork, folder: Path, rounds: int, bar: "tqdm[None]"
) -> tuple[NetworkRecord, list[Sample]]:
    bar.set_description(f"{network.name}: Triton's instances")
    instances = _best_instances(network, folder)
    samples: list[Sample] = []

    def run(number: int, name: str, load: Load, seconds: float) -> LoadResult:
        bar.set_description(f"{network.name}, round {number + 1}: {name}")
        point = OPERATING_POINT.get(name)
        measured = measure(found[name], load, network.images, window_seconds=seconds, operating_point=point)
        samples.append(
            Sample(network=network.name, contender=name, round=number, load=load, measured=measured)
        )
        bar.update()
        return measured

    seconds = WINDOW_SECONDS[network.name]
    with _all_servers(network, folder, instances) as found:
        for number in range(rounds):
            peak = 0.0
            for load in LOADS:
                for name in _in_round(list(found), number, rounds):
                    measured = run(number, name, load, seconds)
                    if name == TRITON and load.rows == 1:
                        peak = max(peak, measured.rows_per_second)
            rate = round(SHARE_OF_PEAK * peak)
            load = Load(rows=1, concurrency=OPEN_LOOP_THREADS, requests_per_second=rate)
            for name in (BALANCED, TRITON):
                run(number, name, load, 2 * seconds)
    return _known(network, instances), samples


def _in_round(names: Sequence[str], number: int, rounds: int) -> Sequence[str]:
    """Return the contenders of a round, from another one on in each."""
    if number > 0 and number == rounds - 1:
        names = [name for name in names if name not in A_ROUND_LESS]
    turn = number % len(names)
    return [*names[turn:], *names[:turn]]


@contextlib.contextmanager
def _all_servers(
    network: BenchNetwork, folder: Path, instances: Instances
) -> Iterator[Mapping[str, RunningServer]]:
    with contextlib.ExitStack() as stack:
        found: dict[str, RunningServer] = {}
        for front_end in ("native", "grpcio"):
            offramp = stack.enter_context(servers.offramp(network, folder, front_end))
            found |= {name: offramp for name in OFFRAMP if front_end in name}
        for name in (STICK_BALANCED, STICK_EXACT):
            found[name] = stack.enter_context(servers.stick(network, folder, OPERATING_POINT[name]))
        found[TRITON] = stack.enter_context(servers.triton(network, folder, instances))
        found[MLSERVER] = stack.enter_context(servers.mlserver(network, folder))
        found[PLAIN] = stack.enter_context(servers.plain(network, folder))
        yield found


def _best_instances(network: BenchNetwork, folder: Path) -> Instances:
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


def _known(network: BenchNetwork, instances: Instances) -> NetworkRecord:
    costs = measure_costs(network.version)
    stages = range(len(network.manifest.stages))
    return NetworkRecord(
        name=network.name,
        multiply_adds=tuple(stage.multiply_adds for stage in network.manifest.stages),
        row_milliseconds=tuple(1e3 * costs.row_seconds(range(stage, stage + 1)) for stage in stages),
        exit_shares=dict(network.exit_shares),
        triton_instances=f"{instances.count} of {instances.intra_op_threads} intra-op threads",
    )


if __name__ == "__main__":
    main()
