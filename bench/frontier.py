"""Do early exits pay? The released model against networks without early exits, and against cascades.

    python -m bench.frontier --run runs/fashion-mnist

Trains the networks of bench/frontier.toml, from labels and taught by the released network, with the schedule
and augmentation of its backbone. An interrupted training is resumed. It takes hours on a CPU. Afterwards all
networks are measured on the test split, and their stages are timed in turn, on one thread. A cascade runs a
small network, and the plain backbone if the small network is not confident. Its thresholds are chosen and
certified like those of the exits; the cascade with the cheapest `balanced` on tune is shown.

Shapes: `N` rows of the test split, `E` exits, `K` classes.
"""

import argparse
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from numpy.typing import NDArray

from bench.publication import DOCS, RELEASED, ROOT, Publication
from serving.exits.policy import ExitRule, route
from serving.repository.manifest import EXACT_POINT, MANIFEST_FILE
from serving.repository.repository import file_digest, read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from training.architectures.head_settings import HeadSettings
from training.born_again.generations import TrainedGeneration
from training.born_again.progress import ProgressBar
from training.data.splits import Dataset, Split
from training.exits.cost import bind_stages, time_stages
from training.exits.evaluate import Readings, evaluate, read
from training.exits.goals import DEFAULT_POINT
from training.exits.intervals import Proportion, discordant, paired_difference
from training.pipeline.assessment import INPUT_NAME, Exported, Stages, choose, read_test_split
from training.pipeline.baselines import without_exits
from training.pipeline.folder import RunFolder
from training.pipeline.from_recipe import make_backbone, train
from training.recipe.recipe import Recipe, load_recipe
from training.recipe.settings import ArchitectureSection
from training.release.export import export_network
from training.reporting.conditions import hardware, package_versions
from training.reporting.drawing import ACCENT, INK, MUTED, draw_document_svg
from training.reporting.markdown import WrittenPart, header, row
from training.reporting.numerals import gain, proportion
from training.reporting.record import RecordPart

NETWORKS = Path(__file__).with_suffix(".toml")
BACKBONE = "272 K, the backbone"
RULE = "ban+l"
"""The rule of the taught networks."""
SLOTS, ROUNDS, BATCHES = 256, 150, (1, 8)
LABELS, TAUGHT, EXITS, CASCADE = "no exits, from labels", "no exits, taught", "early exits", "cascade"
STYLES = ((EXITS, ACCENT, "o"), (CASCADE, INK, "^"), (TAUGHT, MUTED, "s"), (LABELS, MUTED, "x"))

Key = tuple[str, str]
"""Name and kind of a network."""
Times = Mapping[int, Sequence[float]]
"""Milliseconds of each stage, by number of rows."""


class Entry(RecordPart):
    """A network without early exits, or an operating point."""

    name: str
    kind: str
    parameters: int
    multiply_adds: float
    """Mean of a test row."""
    milliseconds: dict[int, float]
    """Mean of a batch of test rows that no other batch joins, by its number of rows."""
    correct: int
    gained: int = 0
    """Rows that `balanced` answers correctly and this one does not."""
    lost: int = 0
    """Rows that this one answers correctly and `balanced` does not."""


class Frontier(RecordPart):
    """All entries, with the conditions."""

    conditions: dict[str, str]
    epochs: int
    n: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Cascade:
    """A small network, followed by a large one."""

    small: Stages
    large: Stages

    @property
    def cost_E(self) -> tuple[int, ...]:  # noqa: N802 - a shape suffix
        """Multiply-adds of a row that leaves after the small or the large network."""
        return self.small.cost_E[-1], self.small.cost_E[-1] + self.large.cost_E[-1]

    def logits(self, split: Split) -> NDArray[np.float32]:
        """Run a split through both networks: logits_ENK."""
        return np.stack([self.small.logits(split)[-1], self.large.logits(split)[-1]])


def main() -> None:
    """Train, measure and publish."""
    parser = argparse.ArgumentParser(prog="python -m bench.frontier", description=__doc__)
    parser.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        default=ROOT / "runs" / "fashion-mnist",
        help="the released version's run folder",
    )
    PUBLICATION.run(parser, _measure)


def _measure(options: argparse.Namespace) -> Frontier:
    recipe, run = load_recipe("fashion-mnist"), RunFolder(options.run)
    dataset = recipe.dataset.load()
    test = dataset.test
    record, version = run.read_record(), read_version(RELEASED)
    if record is None or record.manifest_sha256 != file_digest(RELEASED / MANIFEST_FILE):
        raise SystemExit(f"{run.path}: expected the run that published {RELEASED}")
    networks = train_networks(recipe, dataset, run, record.chosen_generation)
    manifest = version.manifest
    runner = StageRunner(stage_files(version), manifest.inputs, CPU, slots=SLOTS)
    timed = _time({key: network.runner for key, network in networks.items()} | {("", EXITS): runner})
    logits_ENK = evaluate(runner, test.images_NCHW, input_name=INPUT_NAME)
    readings = read(logits_ENK, test.truth_N, [each.calibration_temperature for each in manifest.exits])
    parameters = sum(stage.parameters for stage in manifest.stages)
    found = [
        _point(name, EXITS, parameters, manifest.multiply_adds, timed["", EXITS], readings, point.thresholds)
        for name, point in manifest.operating_points.items()
    ]
    found += _cascade(recipe, dataset, networks, timed)
    for (name, kind), network in networks.items():
        parameters, readings = network.stages[0].parameters, read(network.logits(test), test.truth_N, [1.0])
        found.append(_point(name, kind, parameters, network.cost_E, timed[name, kind], readings, ()))
    (reference_N,) = [each_N for entry, each_N in found if (entry.name, entry.kind) == (DEFAULT_POINT, EXITS)]
    return Frontier(
        conditions={"machine": hardware(), **package_versions(("onnxruntime", "torch"))},
        epochs=without_exits(recipe).schedule.epochs,
        n=len(test),
        entries=tuple(compared(entry, correct_N, reference_N) for entry, correct_N in found),
    )


def train_networks(
    recipe: Recipe, dataset: Dataset, run: RunFolder, chosen_generation: int
) -> dict[Key, Exported]:
    """Train the networks without exits, or load those in the run's folder; the backbone comes last."""
    plain = without_exits(recipe)
    teacher = train(recipe, dataset, run, ProgressBar())[chosen_generation]
    exported: dict[Key, Exported] = {}
    for name, shape in tomllib.loads(NETWORKS.read_text())["networks"].items():
        architecture = ArchitectureSection(exits=len(shape["width"]), heads=(HeadSettings(),), **shape)
        earlier_of: dict[str, Sequence[TrainedGeneration]] = {LABELS: (), TAUGHT: (teacher,)}
        for kind, earlier in earlier_of.items():
            rule_and_count = {"count": 1 + len(earlier), "rule": RULE}
            generations = plain.generations.model_copy(update=rule_and_count)
            network = plain.model_copy(update={"architecture": architecture, "generations": generations})
            folder = RunFolder(run.path / "frontier" / f"{name} {kind}".replace(",", "").replace(" ", "-"))
            folder.begin_or_resume(network, dataset.digests)
            *_, trained = train(network, dataset, folder, ProgressBar(), earlier=earlier, make=make_backbone)
            place = folder.generation_folder(trained.number)
            exported[name, kind] = export_network(trained.network, dataset, place)
    place = run.path / "frontier" / "backbone"
    place.mkdir(exist_ok=True)
    exported[BACKBONE, LABELS] = export_network(teacher.network.without_early_exits(), dataset, place)
    return exported


def _time(runners: Mapping[Key, StageRunner]) -> dict[Key, Times]:
    """Measure the median milliseconds of each stage at 1 to 8 rows; the networks run in turn."""
    every_rows = range(1, max(BATCHES) + 1)
    runs = {(key, rows): bind_stages(runner, rows) for key, runner in runners.items() for rows in every_rows}
    rounds = [{key: time_stages(stages) for key, stages in runs.items()} for _ in range(ROUNDS)]
    return {
        key: {
            rows: [median(times) for times in zip(*(each[key, rows] for each in rounds), strict=True)]
            for rows in every_rows
        }
        for key in runners
    }


def _cascade(
    recipe: Recipe, dataset: Dataset, networks: Mapping[Key, Exported], timed: Mapping[Key, Times]
) -> list[tuple[Entry, NDArray[np.bool_]]]:
    """Measure the points of the cascade whose default point costs least on tune."""
    large_key = (BACKBONE, LABELS)
    cascades = {key: Cascade(network, networks[large_key]) for key, network in networks.items()}
    del cascades[large_key]
    chosen = {key: choose(each, dataset, recipe.operating_points.goals) for key, each in cascades.items()}

    def cost(key: Key) -> float:
        share = chosen[key].points[DEFAULT_POINT].candidate.tune.multiply_adds_share
        return share * cascades[key].cost_E[-1]

    key = min(cascades, key=cost)
    parameters = sum(networks[each].stages[0].parameters for each in (key, large_key))
    times = {rows: [*timed[key][rows], *timed[large_key][rows]] for rows in timed[key]}
    readings = read_test_split(cascades[key], chosen[key], dataset.test).readings
    return [
        _point(
            f"{name}, {key[0]} and backbone",
            CASCADE,
            parameters,
            cascades[key].cost_E,
            times,
            readings,
            point.candidate.thresholds,
        )
        for name, point in chosen[key].points.items()
        if name != EXACT_POINT
    ]


def _point(
    name: str,
    kind: str,
    parameters: int,
    cost_E: Sequence[int],
    times: Times,
    readings: Readings,
    thresholds: tuple[float | None, ...],
) -> tuple[Entry, NDArray[np.bool_]]:
    exit_N = route(readings.confidence_EN, ExitRule(thresholds, readings.exits - 1))
    correct_N = readings.correct_EN[exit_N, np.arange(readings.rows)]
    entry = Entry(
        name=name,
        kind=kind,
        parameters=parameters,
        multiply_adds=float(np.take(cost_E, exit_N).mean()),
        milliseconds={rows: lone_milliseconds(exit_N, times, rows) for rows in BATCHES},
        correct=int(correct_N.sum()),
    )
    return entry, correct_N


def lone_milliseconds(exit_N: NDArray[np.int64], times: Times, batch: int) -> float:
    """Return the mean time of consecutive batches: each stage runs the rows of the batch that reach it."""
    batches = exit_N[: len(exit_N) // batch * batch].reshape(-1, batch)
    total = 0.0
    for stage in range(len(times[1])):
        count_of_rows = np.bincount((batches >= stage).sum(axis=1), minlength=batch + 1)
        total += sum(count * times[rows][stage] for rows, count in enumerate(count_of_rows) if rows)
    return total / len(batches)


def compared(entry: Entry, correct_N: NDArray[np.bool_], reference_N: NDArray[np.bool_]) -> Entry:
    """Return the entry with the rows that the reference gains and loses."""
    gained, lost = discordant(correct_N, reference_N)
    return entry.model_copy(update={"gained": gained, "lost": lost})


def lines(frontier: Frontier) -> Iterator[str]:
    """Yield the table and the plot."""
    titles = ("network or point", "kind", "parameters", "accuracy", "multiply-adds")
    yield header(*titles, "ms of a batch of 1 / of 8", "gain of `balanced`, points")
    for entry in sorted(frontier.entries, key=lambda entry: entry.milliseconds[8]):
        yield row(
            entry.name,
            entry.kind,
            f"{entry.parameters / 1e3:.0f} K",
            proportion(Proportion(entry.correct, frontier.n)),
            f"{entry.multiply_adds / 1e6:.1f} M",
            " / ".join(f"{milliseconds:.3f}" for milliseconds in entry.milliseconds.values()),
            gain(paired_difference(entry.gained, entry.lost, frontier.n)) if entry.gained else "",
        )
    yield ""
    yield "![Accuracy against milliseconds: exits, a cascade, networks without exits](released/frontier.svg)"
    yield ""
    conditions = ", ".join(f"{name} {value}" for name, value in frontier.conditions.items())
    yield (
        f"Test n = {frontier.n:,}; {frontier.epochs} epochs each, one training each: the intervals cover the "
        f"sampling of test rows, not the seed. Taught networks learn by `{RULE}` from the released network. "
        f"Times are those of the stages, without a server, on one thread. The networks run in turn, so their "
        f"weights are not in the cache. {conditions[:1].upper()}{conditions[1:]}."
    )


def _draw(frontier: Frontier) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        for place, batch in enumerate(BATCHES, 1):
            axes = figure.add_subplot(1, 2, place)
            axes.set_title(f"batches of {batch}")
            for kind, colour, marker in STYLES:
                entries = [entry for entry in frontier.entries if entry.kind == kind]
                entries.sort(key=lambda entry: entry.milliseconds[batch])
                milliseconds = [entry.milliseconds[batch] for entry in entries]
                accuracy = [100 * entry.correct / frontier.n for entry in entries]
                line = "-" if kind in (EXITS, CASCADE) else ":"
                axes.plot(milliseconds, accuracy, line, color=colour, marker=marker, label=kind)
            axes.set_xlabel("milliseconds a batch")
            axes.yaxis.set_major_locator(MultipleLocator(0.5))
        figure.axes[0].set_ylabel("accuracy on test, %")
        figure.axes[1].legend(loc="lower right")

    return draw


PUBLICATION = Publication(
    record_type=Frontier,
    path=DOCS / "released" / "frontier.json",
    page=DOCS / "results.md",
    part=WrittenPart("frontier", "python -m bench.frontier"),
    lines=lines,
    plot=lambda frontier: draw_document_svg(_draw(frontier), "frontier", 3.8),
)

if __name__ == "__main__":
    main()
