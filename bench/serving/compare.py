"""Several servers under the same loads, in interleaved rounds.

All servers of a network run at once and take turns under each load. So a slow moment of the machine affects
all of them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from bench.serving.load import measure
from bench.serving.networks import BenchNetwork, measure_costs
from bench.serving.record import OPEN_LOOP, Load, LoadResult, NetworkRecord, cell
from bench.serving.servers import RunningServer

LOADS = [Load(rows=rows, outstanding=outstanding) for rows in (1, 8) for outstanding in (1, 8, 64)]
WINDOW_SECONDS = {"released": 0.35, "heavy": 0.8}
"""Duration of a window; longer for `heavy`, which answers few requests per second."""
SHARE_OF_PEAK = 0.8
OPEN_LOOP_THREADS = 16


@dataclass(frozen=True)
class Contender:
    """A server, the operating point to request, and the contender to compare its throughput with."""

    name: str
    server: RunningServer
    point: str | None
    baseline: str | None


def compare(
    network: BenchNetwork, contenders: Sequence[Contender], rounds: int, in_open_loop: Sequence[Contender]
) -> NetworkRecord:
    """Measure every contender under every load.

    The contenders `in_open_loop` also run in an open loop. Its rate is 80 % of the peak throughput of the
    last contender in this list.
    """
    results: dict[str, dict[str, list[LoadResult]]] = defaultdict(lambda: defaultdict(list))
    seconds = WINDOW_SECONDS[network.name]

    def run(contender: Contender, load: Load, name: str, window_seconds: float) -> None:
        bar.set_description(f"{network.name}, {name}, {contender.name}")
        server, point = contender.server, contender.point
        result = measure(server, load, network.images, window_seconds, point)
        results[name][contender.name].append(result)
        bar.update()

    with tqdm(total=rounds * (len(LOADS) * len(contenders) + len(in_open_loop)), unit="run") as bar:
        for number in range(rounds):
            turn = number % len(contenders)
            for load in LOADS:
                for contender in (*contenders[turn:], *contenders[:turn]):
                    run(contender, load, load.name, seconds)
            for contender in in_open_loop:
                rival = in_open_loop[-1].name
                peak = max(results[each.name][rival][-1].rows_per_second for each in LOADS if each.rows == 1)
                load = Load(1, OPEN_LOOP_THREADS, requests_per_second=round(SHARE_OF_PEAK * peak))
                run(contender, load, OPEN_LOOP, 2 * seconds)
    costs, stages = measure_costs(network.version), range(len(network.version.manifest.stages))
    return NetworkRecord(
        name=network.name,
        multiply_adds=tuple(stage.multiply_adds for stage in network.version.manifest.stages),
        row_milliseconds=tuple(1e3 * costs.row_seconds(range(stage, stage + 1)) for stage in stages),
        exit_shares=network.exit_shares,
        loads={
            load: {
                each.name: cell(
                    cells[each.name], () if load == OPEN_LOOP else cells.get(each.baseline or "", ())
                )
                for each in contenders
                if each.name in cells
            }
            for load, cells in results.items()
        },
    )
