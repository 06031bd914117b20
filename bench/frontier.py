"""Do early exits pay? The released model against networks without early exits, and against a cascade.

    python -m bench.frontier --run runs/fashion-mnist

Trains the networks of bench/frontier.toml, from labels and taught by the released network, with the
schedule and augmentation of its backbone. An interrupted training is resumed. It takes hours on a CPU. Then
reads the test split and times all stages in turn, on one thread. The cascade runs the smallest network, and
the released model's full depth if that is not confident. Its thresholds are chosen and certified like those
of the exits.

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
from numpy.typing import NDArray

from bench.publication import DOCS, ROOT, Publication
from bench.results import RELEASED
from serving.exits.policy import route
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from training.architectures.heads import HeadSettings
from training.born_again.phases import phases
from training.born_again.progress import ProgressBar
from training.data.splits import Dataset, Split
from training.exits.cost import bind_stages, time_stages
from training.exits.evaluate import evaluate
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
from training.reporting.markdown import WrittenPart, row, rule
from training.reporting.numerals import gain, proportion
from training.reporting.record import RecordPart

NETWORKS = Path(__file__).with_suffix(".toml")
SLOTS, ROUNDS, BATCHES = 256, 60, (1, 8)
LABELS, TAUGHT, POINT, CASCADE = "from labels", "taught", "early exits", "cascade"


STYLES = ((POINT, ACCENT, "o"), (CASCADE, INK, "^"), (TAUGHT, MUTED, "s"), (LABELS, MUTED, "x"))
LEGEND = {
    POINT: "early exits",
    CASCADE: "cascade",
    TAUGHT: "no exits, taught",
    LABELS: "no exits, from labels",
}
RELEASED_KEY = ("", POINT)


class Entry(RecordPart):
    """A network without early exits, an operating point of the released model, or one of the cascade."""

    name: str
    kind: str
    parameters: int
    multiply_adds: float
    """Mean of a test row."""
    milliseconds: dict[int, float]
    """Mean of a test batch, by its number of rows."""
    correct: int
    gained: int
    """Rows that `balanced` answers correctly and this one does not."""
    lost: int


class Frontier(RecordPart):
    """All entries, with the conditions."""

    conditions: dict[str, str]
    epochs: int
    n: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Released:
    """The released model, as it is served."""

    version: PublishedVersion
    runner: StageRunner

    @property
    def cost_E(self) -> tuple[int, ...]:  # noqa: N802 - a shape suffix
        """Multiply-adds of a row that leaves at each exit."""
        return self.version.manifest.multiply_adds

    def logits(self, split: Split) -> NDArray[np.float32]:
        """Run a split through every stage: logits_ENK."""
        return evaluate(self.runner, split.images_NCHW, input_name=INPUT_NAME)


@dataclass(frozen=True)
class Cascade:
    """A small network, followed by the full depth of a large one."""

    small: Stages
    large: Stages

    @property
    def cost_E(self) -> tuple[int, ...]:  # noqa: N802 - a shape suffix
        """Multiply-adds of a row that leaves after the small or the large network."""
        return self.small.cost_E[-1], self.small.cost_E[-1] + self.large.cost_E[-1]

    def logits(self, split: Split) -> NDArray[np.float32]:
        """Run a split through both networks: logits_ENK."""
        return np.stack([self.small.logits(split)[-1], self.large.logits(split)[-1]])


@dataclass(frozen=True)
class Measured:
    """An entry with its answers."""

    name: str
    kind: str
    parameters: int
    multiply_adds: float
    milliseconds: dict[int, float]
    correct_N: NDArray[np.bool_]

    def entry(self, reference_N: NDArray[np.bool_]) -> Entry:
        """Return the entry, compared with other answers on the same rows."""
        gained, lost = discordant(self.correct_N, reference_N)
        return Entry(
            name=self.name,
            kind=self.kind,
            parameters=self.parameters,
            multiply_adds=self.multiply_adds,
            milliseconds=self.milliseconds,
            correct=int(self.correct_N.sum()),
            gained=gained,
            lost=lost,
        )


def main() -> None:
    """Train, measure and publish."""
    parser = argparse.ArgumentParser(prog="python -m bench.frontier", description=__doc__)
    parser.add_argument("--run", type=Path, metavar="DIR", help="the released version's run folder")
    PUBLICATION.run(parser, _measure)


def _measure(options: argparse.Namespace) -> Frontier:
    recipe = load_recipe("fashion-mnist")
    dataset, version = recipe.dataset.load(), read_version(ROOT / RELEASED)
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=SLOTS)
    released = Released(version, runner)
    networks = dict(train_networks(recipe, dataset, RunFolder(options.run)))
    (smallest_key, smallest), *_ = networks.items()
    runners = {key: network.runner for key, network in networks.items()} | {RELEASED_KEY: runner}
    times = {rows: _time(runners, rows) for rows in BATCHES}
    parameters = sum(stage.parameters for stage in version.manifest.stages)
    in_stages = {rows: times[rows][RELEASED_KEY] for rows in BATCHES}
    in_cascade = {rows: [sum(times[rows][key]) for key in (smallest_key, RELEASED_KEY)] for rows in BATCHES}
    cascade, of_both = Cascade(smallest, released), parameters + smallest.stages[0].parameters
    measured = [
        *_points(POINT, released, parameters, in_stages, recipe, dataset),
        *_points(CASCADE, cascade, of_both, in_cascade, recipe, dataset)[1:],  # without `exact`
    ]
    for (name, kind), network in networks.items():
        correct_N = network.logits(dataset.test)[-1].argmax(axis=1) == dataset.test.truth_N
        taken = {rows: sum(times[rows][name, kind]) for rows in BATCHES}
        count = network.stages[0].parameters
        measured.append(Measured(name, kind, count, network.cost_E[-1], taken, correct_N))
    reference_N = measured[1].correct_N
    return Frontier(
        conditions={"machine": hardware(), **package_versions(("onnxruntime", "torch"))},
        epochs=backbone_epochs(recipe),
        n=len(reference_N),
        entries=tuple(each.entry(reference_N) for each in measured),
    )


def train_networks(
    recipe: Recipe, dataset: Dataset, run: RunFolder
) -> Iterator[tuple[tuple[str, str], Exported]]:
    """Train the networks without exits, or load those in the run's folder; yield them by name and kind."""
    record = run.read_record()
    if record is None:
        raise SystemExit(f"{run.path}: expected a finished run, got none")
    (teacher,) = train(recipe, dataset, run, ProgressBar())[record.chosen_generation :][:1]
    plain = without_exits(recipe)
    schedule = plain.schedule.model_copy(update={"epochs": backbone_epochs(recipe)})
    for name, shape in tomllib.loads(NETWORKS.read_text())["networks"].items():
        architecture = ArchitectureSection(exits=len(shape["width"]), heads=(HeadSettings(),), **shape)
        for kind, earlier in ((LABELS, ()), (TAUGHT, (teacher,))):
            count = plain.generations.model_copy(update={"count": 1 + len(earlier)})
            update = {"architecture": architecture, "schedule": schedule, "generations": count}
            network = plain.model_copy(update=update)
            folder = RunFolder(run.path / "frontier" / f"{name}, {kind}".replace(", ", "-").replace(" ", "-"))
            folder.begin_or_resume(network, dataset.digests)
            *_, trained = train(network, dataset, folder, ProgressBar(), earlier=earlier, make=make_backbone)
            yield (
                (name, kind),
                export_network(trained.network, dataset, folder.generation_folder(trained.number)),
            )


def backbone_epochs(recipe: Recipe) -> int:
    """Return the epochs that train a recipe's backbone."""
    return phases(recipe.exits.train, recipe.schedule.epochs)[0].epochs


def _points(
    kind: str,
    stages: Stages,
    parameters: int,
    milliseconds: Mapping[int, Sequence[float]],
    recipe: Recipe,
    dataset: Dataset,
) -> list[Measured]:
    """Choose and certify the operating points of a network with exits, and measure them on the test split."""
    chosen = choose(stages, dataset, recipe.operating_points.goals)
    readings = read_test_split(stages, chosen, dataset.test).readings
    measured = []
    for name, point in chosen.points.items():
        exit_N = route(readings.confidence_EN, point.candidate.rule)
        reaching = [float((exit_N >= number).mean()) for number in range(readings.exits)]
        taken = {rows: float(np.dot(reaching, times)) for rows, times in milliseconds.items()}
        cost = float(np.take(stages.cost_E, exit_N).mean())
        correct_N = readings.correct_EN[exit_N, np.arange(readings.rows)]
        measured.append(Measured(f"`{name}`", kind, parameters, cost, taken, correct_N))
    return measured


def _time(
    runners: Mapping[tuple[str, str], StageRunner], rows: int
) -> dict[tuple[str, str], tuple[float, ...]]:
    """Measure the median milliseconds of each stage of each network; the networks run in turn."""
    runs = {key: bind_stages(runner, rows) for key, runner in runners.items()}
    rounds = [{key: time_stages(each) for key, each in runs.items()} for _ in range(ROUNDS)]
    return {
        key: tuple(median(times) for times in zip(*(each[key] for each in rounds), strict=True))
        for key in runs
    }


def lines(frontier: Frontier) -> Iterator[str]:
    """Yield the table and the plot."""
    titles = ("network", "trained", "parameters", "accuracy", "multiply-adds")
    yield row(*titles, "ms for a batch of 1 / of 8", "gain of `balanced`, points")
    yield rule(7)
    for entry in sorted(frontier.entries, key=lambda entry: entry.milliseconds[8]):
        yield row(
            entry.name,
            entry.kind,
            f"{entry.parameters / 1e3:.0f} K",
            proportion(Proportion(entry.correct, frontier.n)),
            f"{entry.multiply_adds / 1e6:.1f} M",
            " / ".join(f"{milliseconds:.3f}" for milliseconds in entry.milliseconds.values()),
            gain(paired_difference(entry.gained, entry.lost, frontier.n)),
        )
    yield ""
    yield "![Accuracy against milliseconds](released/frontier.svg)"
    yield ""
    conditions = ", ".join(f"{name} {value}" for name, value in frontier.conditions.items())
    yield f"Test n = {frontier.n:,}; {frontier.epochs} epochs each; one thread; {conditions}."


def _draw(frontier: Frontier) -> Callable[[Figure], None]:
    def draw(figure: Figure) -> None:
        for place, batch in enumerate(BATCHES, 1):
            axes = figure.add_subplot(1, 2, place)
            axes.set_title(f"batches of {batch}")
            for kind, colour, marker in STYLES:
                entries = [entry for entry in frontier.entries if entry.kind == kind]
                entries.sort(key=lambda entry: entry.milliseconds[batch])
                axes.plot(
                    [entry.milliseconds[batch] for entry in entries],
                    [100 * entry.correct / frontier.n for entry in entries],
                    color=colour,
                    marker=marker,
                    label=LEGEND[kind],
                )
            axes.set_xlabel("milliseconds a batch")
            axes.set_ylabel("accuracy, %" if place == 1 else "")
        axes.legend(loc="lower right")

    return draw


PUBLICATION = Publication(
    record_type=Frontier,
    path=DOCS / "released" / "frontier.json",
    page=DOCS / "results.md",
    part=WrittenPart("frontier", "python -m bench.frontier"),
    lines=lines,
    plot=lambda frontier: draw_document_svg(_draw(frontier), "frontier", 3.6),
)

if __name__ == "__main__":
    main()
