"""How Offramp's cost grows: with the load offered, rows a request, depth, models, a flood and workers.

    python -m bench.serving.growth

On the native front end. Small networks and short windows: the shape of each curve is the point. Writes
growth.json and growth.svg into docs/performance, and the table of docs/performance.md.
"""

import argparse
import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from bench.serving import environments, servers
from bench.serving.load import Load, LoadResult, measure
from bench.serving.networks import (
    ROOT,
    BenchNetwork,
    Shape,
    load_images,
    measure_costs,
    prepare,
    prepare_untrained,
)
from serving.repository.repository import PublishedVersion
from training.reporting.drawing import ACCENT, draw_document_svg
from training.reporting.markdown import WrittenPart, row, rule

OUTPUT = ROOT / "docs" / "performance"
PAGE = ROOT / "docs" / "performance.md"
PART = WrittenPart("growth", "python -m bench.serving.growth")
ROUNDS = 3
WINDOW_SECONDS = 0.35
OFFERED = (250, 500, 1000, 2000, 3000, 4000)
ROOMY = "[engine]\nmax_queue_size = 16384\n"
"""perf_analyzer stops at a refusal: what is offered beyond the peak has to wait."""
ROWS = (1, 2, 4, 8, 16, 32, 64)
DEPTHS = (1, 2, 4, 8)
MODELS = (1, 2, 4, 8)
WORKERS = (1, 2, 4)
CONCURRENCY = 8
OPEN_LOOP_THREADS = 16
FLOODS = (0, 64)
FLOOD_WINDOW_SECONDS, CALM_WINDOW_SECONDS = 3.0, 1.0
HEAD_START_SECONDS = 2.0
"""After it the flood's callers are all there."""
CALM = Load(rows=1, concurrency=OPEN_LOOP_THREADS, requests_per_second=100)
FLOODED = "callers that flood another model"

Curves = dict[str, dict[str, dict[int, list[LoadResult]]]]
"""By what grows, then by line, then by how much: a run a round."""


class Growth(BaseModel):
    """All that was measured."""

    model_config = ConfigDict(frozen=True)

    curves: Curves
    largest_batch_milliseconds: float
    """Of the released network at full depth, on one core that does nothing else."""


_LINE_COLOURS = ("#12406e", "#9cc7ee", ACCENT)


@dataclass(frozen=True)
class Workshop:
    """What every curve is made of."""

    folder: Path
    network: BenchNetwork
    rounds: int
    bar: "tqdm[None]"

    def run(
        self, server: servers.RunningServer, load: Load, point: str, network: BenchNetwork | None = None
    ) -> LoadResult:
        """Measure one point."""
        images = (network or self.network).images
        measured = measure(server, load, images, window_seconds=WINDOW_SECONDS, operating_point=point)
        self.bar.update()
        return measured


def offered_load(workshop: Workshop) -> Curves:
    """Offer more and more requests of one row to the released network, open loop."""
    lines: dict[str, dict[int, list[LoadResult]]] = {"balanced": {}, "exact": {}}
    with servers.offramp(workshop.network, workshop.folder, settings=ROOMY) as server:
        for _ in range(workshop.rounds):
            for offered in OFFERED:
                load = Load(rows=1, concurrency=OPEN_LOOP_THREADS, requests_per_second=offered)
                for point, line in lines.items():
                    line.setdefault(offered, []).append(workshop.run(server, load, point))
    return {"offered rows a second": lines}


def rows_a_request(workshop: Workshop) -> Curves:
    """Ask for more rows a request, 8 requests at a time, on the released network."""
    lines: dict[str, dict[int, list[LoadResult]]] = {"balanced": {}, "exact": {}}
    with servers.offramp(workshop.network, workshop.folder) as server:
        for _ in range(workshop.rounds):
            for rows in ROWS:
                load = Load(rows=rows, concurrency=CONCURRENCY)
                for point, line in lines.items():
                    line.setdefault(rows, []).append(workshop.run(server, load, point))
    return {"rows a request": lines}


def depth(workshop: Workshop) -> Curves:
    """Ask untrained residual networks of ever more blocks a stage, 8 requests of 1 row."""
    lines: dict[str, dict[int, list[LoadResult]]] = {"balanced": {}, "exact": {}}
    images_NCHW = load_images()
    for blocks in DEPTHS:
        folder = workshop.folder / f"depth-{blocks}"
        shape = Shape("residual", width=(16,), depth=(blocks,) * 4)
        network = prepare_untrained("depth", shape, images_NCHW, folder)
        with servers.offramp(network, folder) as server:
            for _ in range(workshop.rounds):
                for point, line in lines.items():
                    load = Load(rows=1, concurrency=CONCURRENCY)
                    line.setdefault(blocks, []).append(workshop.run(server, load, point, network))
    return {"blocks a stage": lines}


def models(workshop: Workshop) -> Curves:
    """Spread 8 callers over the released network under several names; figures are of all together."""
    line: dict[int, list[LoadResult]] = {}
    for count in MODELS:
        with _serve_copies(workshop, count) as (server, network):
            for _ in range(workshop.rounds):
                line.setdefault(count, []).append(_spread(server, network, count))
                workshop.bar.update()
    return {"models": {"balanced": line}}


def flooded_neighbour(workshop: Workshop) -> Curves:
    """Ask one model at a low rate, alone and while callers flood another at full depth, 8 rows a request."""
    line: dict[int, list[LoadResult]] = {}
    with _serve_copies(workshop, 2) as (server, network):
        for _ in range(workshop.rounds):
            for callers in FLOODS:
                with _flood(server, network, callers):
                    measured = measure(
                        _ask_copy(server, network, 1),
                        CALM,
                        network.images,
                        window_seconds=CALM_WINDOW_SECONDS,
                        operating_point="balanced",
                    )
                line.setdefault(callers, []).append(measured)
                workshop.bar.update()
    return {FLOODED: {"balanced": line}}


@contextlib.contextmanager
def _flood(server: servers.RunningServer, network: BenchNetwork, callers: int) -> Iterator[None]:
    load = Load(rows=8, concurrency=callers)
    first = _ask_copy(server, network, 0)

    def ask() -> None:
        seconds = FLOOD_WINDOW_SECONDS
        measure(first, load, network.images, window_seconds=seconds, operating_point="exact")

    thread = threading.Thread(target=ask)
    if callers:
        thread.start()
        time.sleep(HEAD_START_SECONDS)
    yield
    if callers:
        thread.join()


@contextlib.contextmanager
def _serve_copies(workshop: Workshop, count: int) -> Iterator[tuple[servers.RunningServer, BenchNetwork]]:
    with tempfile.TemporaryDirectory(dir=workshop.folder) as name:
        network = _copies(workshop.network, Path(name), count)
        with servers.offramp(network, Path(name)) as server:
            yield server, network


def _ask_copy(server: servers.RunningServer, network: BenchNetwork, number: int) -> servers.RunningServer:
    model = f"{network.manifest.name.removesuffix('-0')}-{number}"
    return servers.RunningServer(server.name, server.address, model, server.process)


def _copies(network: BenchNetwork, folder: Path, count: int) -> BenchNetwork:
    """Publish a network's version under several names; returns the first."""
    for number in reversed(range(count)):
        name = f"{network.manifest.name}-{number}"
        copied = folder / "models" / name / network.version.folder.name
        shutil.copytree(network.version.folder, copied)
        manifest = network.manifest.model_copy(update={"name": name})
        (copied / "manifest.json").write_text(manifest.to_json())
    return replace(network, version=PublishedVersion(copied, manifest))


def _spread(server: servers.RunningServer, network: BenchNetwork, count: int) -> LoadResult:
    """Ask all models at once, 8 callers in all, and add up what they gave."""
    found: list[LoadResult] = []

    def ask(number: int) -> None:
        one, load = _ask_copy(server, network, number), Load(rows=1, concurrency=CONCURRENCY // count)
        found.append(measure(one, load, network.images, window_seconds=WINDOW_SECONDS))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return LoadResult(
        rows_per_second=sum(each.rows_per_second for each in found),
        p50_milliseconds=median(each.p50_milliseconds for each in found),
        p99_milliseconds=max(each.p99_milliseconds for each in found),
        server_cpu_milliseconds=found[0].server_cpu_milliseconds / count,
        client_cpu_milliseconds=median(each.client_cpu_milliseconds for each in found),
        requests=sum(each.requests for each in found),
    )


def workers(workshop: Workshop) -> Curves:
    """Run the released network with other numbers of workers, 8 requests of 8 rows."""
    lines: dict[str, dict[int, list[LoadResult]]] = {"balanced": {}, "exact": {}}
    with contextlib.ExitStack() as stack:
        running = {
            count: stack.enter_context(
                servers.offramp(workshop.network, workshop.folder, settings=f"[engine]\nworkers = {count}\n")
            )
            for count in WORKERS
        }
        for _ in range(workshop.rounds):
            for count, server in running.items():
                for point, line in lines.items():
                    load = Load(rows=8, concurrency=CONCURRENCY)
                    line.setdefault(count, []).append(workshop.run(server, load, point))
    return {"workers": lines}


CURVES: Sequence[Callable[[Workshop], Curves]] = (
    offered_load,
    rows_a_request,
    depth,
    models,
    flooded_neighbour,
    workers,
)
POINTS = 2 * (len(OFFERED) + len(ROWS) + len(DEPTHS) + len(WORKERS)) + len(MODELS) + len(FLOODS)


def main() -> None:
    """Measure every curve, and write them."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving.growth", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default docs/performance")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    options = parser.parse_args()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    environments.make_load_generator()
    curves: Curves = {}
    with (
        tempfile.TemporaryDirectory(prefix="offramp-bench-") as folder,
        tqdm(total=options.rounds * POINTS, unit="run") as bar,
    ):
        network = prepare("released", load_images(), Path(folder))
        for curve in CURVES:
            bar.set_description(curve.__name__.replace("_", " "))
            curves.update(curve(Workshop(Path(folder), network, options.rounds, bar)))
        costs = measure_costs(network.version)
    largest = costs.seconds(range(len(network.manifest.stages)), costs.max_batch_size)
    growth = Growth(curves=curves, largest_batch_milliseconds=1e3 * largest)
    (output / "growth.json").write_text(growth.model_dump_json(indent=1) + "\n")
    (output / "growth.svg").write_text(plot(growth.curves))
    if output == OUTPUT:
        PART.write(PAGE, lines(growth))
    print("\n".join(lines(growth)))


def read(path: Path) -> Growth:
    """Read measured curves."""
    return Growth.model_validate_json(path.read_bytes())


def lines(growth: Growth) -> Iterator[str]:
    """Yield the table, a line a point, and what a flood does."""
    yield "![Throughput and p99 as work grows](performance/growth.svg)"
    yield ""
    yield row("what grows", "", "operating point", "rows/s", "p50 ms", "p99 ms", "server CPU ms/request")
    yield rule(7)
    for what, named in growth.curves.items():
        for name, line in named.items():
            for size, rounds in line.items():
                yield row(
                    what,
                    str(size),
                    f"`{name}`",
                    f"{_middle(rounds, 'rows_per_second'):,.0f}",
                    f"{_middle(rounds, 'p50_milliseconds'):.2f}",
                    f"{_middle(rounds, 'p99_milliseconds'):.2f}",
                    f"{_middle(rounds, 'server_cpu_milliseconds'):.2f}",
                )
    alone, flooded = (
        _middle(growth.curves[FLOODED]["balanced"][callers], "p99_milliseconds") for callers in FLOODS
    )
    yield ""
    yield (
        f"A model asked for {CALM.requests_per_second:.0f} rows a second has a p99 of {alone:.2f} ms alone, "
        f"and of {flooded:.2f} ms while {FLOODS[1]} callers flood another model, whose largest batch takes "
        f"{growth.largest_batch_milliseconds:.1f} ms."
    )


def _middle(rounds: Sequence[LoadResult], figure: str) -> float:
    return median(float(getattr(each, figure)) for each in rounds)


def plot(curves: Curves) -> str:
    """Draw throughput above and p99 below, a column for each of what grows."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, len(curves), squeeze=False)
        for column, (what, named) in enumerate(curves.items()):
            for line, (name, points) in enumerate(named.items()):
                sizes = [str(size) for size in points]
                style = {"color": _LINE_COLOURS[line], "marker": "o", "markersize": 3}
                for across, figure_name in enumerate(("rows_per_second", "p99_milliseconds")):
                    values = [_middle(rounds, figure_name) for rounds in points.values()]
                    panels[across][column].plot(sizes, values, label=name, **style)
            panels[0][column].set_ylim(bottom=0)
            panels[1][column].set_ylim(bottom=0)
            panels[1][column].set_xlabel(what)
            for axes in panels[:, column]:
                axes.tick_params(labelsize=7)
                axes.tick_params(axis="x", labelrotation=90 if len(next(iter(named.values()))) > 5 else 0)
        panels[0][0].set_ylabel("rows a second")
        panels[1][0].set_ylabel("p99, ms")
        handles, names = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)

    return draw_document_svg(draw, "growth", 4.6)


if __name__ == "__main__":
    main()
