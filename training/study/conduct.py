"""Training and measurement of a study's networks. An interrupted study can resume.

All choices are made before the test split is read. The tune split chooses the rules to repeat, and the tune
and certify splits choose thresholds.

Shapes: `E` exits, `N` rows of the test split.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.born_again.checkpoint import WEIGHTS_FILE
from training.born_again.fit import right_rows, tensors
from training.born_again.generations import TrainedGeneration, choose_training_device
from training.born_again.progress import TrainingProgress
from training.data.splits import Dataset
from training.estimates.split_sizes import registered_size
from training.estimates.training_time import generation_seconds
from training.exits.evaluate import ensemble_probabilities
from training.exits.goals import check_certify_rows
from training.pipeline.assessment import Assessment, choose, read_test_split
from training.pipeline.folder import RunFolder
from training.pipeline.from_recipe import make_network, train
from training.release.export import export_network
from training.reporting.conditions import hardware, package_versions
from training.study.plan import Study, best_rules
from training.study.record import (
    ContrastRecord,
    Paired,
    StudyEnsemble,
    StudyNetwork,
    StudyPoint,
    StudyRecord,
)

Line = tuple[str, int]
"""A rule and a seed."""

ORIGINAL, PERMUTED = "ban", "dkpp"
"""Rules that learn from the same teacher's probabilities; `dkpp` permutes all but the largest."""


@dataclass(frozen=True)
class Trained:
    """All networks of a study: generation 0 of each seed, and the lines, which start with it."""

    firsts: Mapping[int, TrainedGeneration]
    lines: Mapping[Line, Sequence[TrainedGeneration]]
    repeated_rules: tuple[str, ...]


def conduct(
    study: Study, name: str, folder: Path, progress: TrainingProgress, *, allow_other_precision: bool = False
) -> StudyRecord:
    """Train the networks that are not in the folder yet, then measure all networks.

    allow_other_precision: resume in another precision than before. Raises RunError if the folder belongs to
    another recipe, and RecipeError if the certify split is too small.
    """
    check_certify_rows(study.recipe.operating_points.goals, study.recipe.dataset.certify_rows)
    dataset = study.recipe.dataset.load()
    make_network(study.recipe, dataset)  # raises before training if the images do not fit
    trained = train_lines(study, dataset, folder, progress, allow_other_precision=allow_other_precision)
    progress.say("exporting, calibrating and certifying every network; then reading the test split, once")
    return measure(study, name, dataset, trained, folder)


def seconds_of_networks(study: Study) -> list[float]:
    """Estimate the seconds of each network in the order of training; zeros for the user's own data."""
    recipe = study.line_recipe(study.rules[0], study.seeds[0])
    size = registered_size(recipe)
    first, *later = [0.0] * study.generations if size is None else generation_seconds(recipe, size)
    lines_of_seeds = [len(study.rules), *[study.repeated_rules] * (len(study.seeds) - 1)]
    return [seconds for lines in lines_of_seeds for seconds in (first, *later * lines)]


def networks_done(folder: Path) -> int:
    """Count the finished networks in a folder."""
    return len(list(folder.glob(f"*/generation-*/{WEIGHTS_FILE}")))


def train_lines(
    study: Study, dataset: Dataset, folder: Path, progress: TrainingProgress, *, allow_other_precision: bool
) -> Trained:
    """Train generation 0 of every seed, and every line."""
    firsts: dict[int, TrainedGeneration] = {}
    lines: dict[Line, Sequence[TrainedGeneration]] = {}
    run_folder = partial(RunFolder, allow_other_precision=allow_other_precision)

    def line(rule: str, seed: int) -> Sequence[TrainedGeneration]:
        if seed not in firsts:
            place, recipe = run_folder(folder / f"seed-{seed}"), study.first_recipe(seed)
            place.begin_or_resume(recipe, dataset.digests)
            (firsts[seed],) = train(recipe, dataset, place, progress)
        place, recipe = run_folder(line_folder(folder, rule, seed)), study.line_recipe(rule, seed)
        place.begin_or_resume(recipe, dataset.digests)
        return train(recipe, dataset, place, progress, earlier=[firsts[seed]])

    for rule in study.rules:
        lines[rule, study.seeds[0]] = line(rule, study.seeds[0])
    repeated = best_rules(
        study, [tune_right(lines[rule, study.seeds[0]][1:], dataset) for rule in study.rules]
    )
    for seed in study.seeds[1:]:
        for name in repeated:
            lines[name, seed] = line(name, seed)
    return Trained(firsts, lines, repeated)


def line_folder(folder: Path, rule: str, seed: int) -> Path:
    """Return the folder of a line."""
    return folder / f"{rule}-seed-{seed}"


def tune_right(generations: Sequence[TrainedGeneration], dataset: Dataset) -> int:
    """Count the correct tune rows of the final exits, summed over several generations."""
    images_NCHW, truth_N = tensors(dataset.tune, choose_training_device())
    return sum(
        int(right_rows(each.network.to(images_NCHW.device), images_NCHW, truth_N)[-1].sum())
        for each in generations
    )


def measure(study: Study, name: str, dataset: Dataset, trained: Trained, folder: Path) -> StudyRecord:
    """Export every network, choose its thresholds, then count its results on the test split."""
    goals = study.recipe.operating_points.goals

    def assess(generation: TrainedGeneration, place: Path) -> Assessment:
        exported = export_network(generation.network, dataset, place / f"generation-{generation.number}")
        chosen = choose(exported, dataset, goals)
        return Assessment(exported, chosen, read_test_split(exported, chosen, dataset.test))

    firsts = {seed: assess(first, folder / f"seed-{seed}") for seed, first in trained.firsts.items()}
    lines = {
        (rule, seed): [
            firsts[seed],
            *(assess(each, line_folder(folder, rule, seed)) for each in generations[1:]),
        ]
        for (rule, seed), generations in trained.lines.items()
    }
    any_first = firsts[study.seeds[0]]
    return StudyRecord(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        study=study,
        repeated_rules=trained.repeated_rules,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        tune_n=len(dataset.tune),
        certify_n=len(dataset.certify),
        n=len(dataset.test),
        multiply_adds=tuple(stage.multiply_adds for stage in any_first.exported.stages),
        parameters=sum(stage.parameters for stage in any_first.exported.stages),
        networks=(
            *(network_record(study, None, seed, [first]) for seed, first in firsts.items()),
            *(
                network_record(study, rule, seed, line[: number + 1])
                for (rule, seed), line in lines.items()
                for number in range(1, len(line))
            ),
        ),
        ensembles=tuple(ensembles(firsts, lines, dataset.test.truth_N)),
        contrasts=tuple(contrasts(lines)),
        hardware=hardware(),
        packages=package_versions(),
    )


def network_record(study: Study, rule: str | None, seed: int, line: Sequence[Assessment]) -> StudyNetwork:
    """Build the record of the last network of a line."""
    last, goals = line[-1], study.recipe.operating_points.goals
    return StudyNetwork(
        rule=rule,
        seed=seed,
        generation=len(line) - 1,
        tune_right=right(last.chosen.tune.correct_EN),
        right=right(last.tested.readings.correct_EN),
        over_first=compare_on_test(line[0], last) if len(line) > 1 else (),
        over_teacher=compare_on_test(line[-2], last) if len(line) > 1 else (),
        points={
            name: StudyPoint(
                epsilon=epsilon,
                certified=last.chosen.points[name].certificate is not None,
                right=last.tested.outcomes[name].correct,
                disagreements=last.tested.outcomes[name].disagreements,
                exit_counts=last.tested.outcomes[name].exit_counts,
                multiply_adds_share=last.tested.outcomes[name].multiply_adds_share,
            )
            for name, goal in goals.items()
            if (epsilon := goal.epsilon) is not None  # all points of a study are certified
        },
    )


def right(correct_EN: NDArray[np.bool_]) -> tuple[int, ...]:
    """Count the correct rows at each exit."""
    return tuple(correct_EN.sum(axis=1).tolist())


def compare_on_test(first: Assessment, second: Assessment) -> tuple[Paired, ...]:
    """Compare two networks on test at each exit."""
    return compare(first.tested.readings.correct_EN, second.tested.readings.correct_EN)


def compare(first_EN: NDArray[np.bool_], second_EN: NDArray[np.bool_]) -> tuple[Paired, ...]:
    """Count, at each exit, the rows that only one of two networks classifies correctly."""
    return tuple(Paired.of(*correct) for correct in zip(first_EN, second_EN, strict=True))


def ensembles(
    firsts: Mapping[int, Assessment],
    lines: Mapping[Line, Sequence[Assessment]],
    truth_N: NDArray[np.integer],
) -> Iterator[StudyEnsemble]:
    """Yield the ensemble of each line, and as a control the ensemble of every generation 0."""

    def record(name: str, rule: str | None, members: Sequence[tuple[int, int, Assessment]]) -> StudyEnsemble:
        logits_of_G = [member.tested.logits_ENK for _, _, member in members]
        correct_EN = ensemble_probabilities(logits_of_G).argmax(axis=2) == truth_N
        return StudyEnsemble(
            name=name,
            rule=rule,
            seeds=tuple(seed for seed, _, _ in members),
            generations=tuple(generation for _, generation, _ in members),
            right=right(correct_EN),
            over_first=compare(members[0][2].tested.readings.correct_EN, correct_EN),
        )

    if len(firsts) > 1:
        yield record("seeds", None, [(seed, 0, first) for seed, first in firsts.items()])
    for (rule, seed), line in lines.items():
        for count in range(2, len(line) + 1):
            members = [(seed, number, each) for number, each in enumerate(line[:count])]
            yield record(f"{rule}, seed {seed}, {count} generations", rule, members)


def contrasts(lines: Mapping[Line, Sequence[Assessment]]) -> Iterator[ContrastRecord]:
    """Compare `ban` with `dkpp` in generation 1, where both have the same teacher."""
    for (rule, seed), line in lines.items():
        if rule == ORIGINAL and (PERMUTED, seed) in lines:
            over = compare_on_test(lines[PERMUTED, seed][1], line[1])
            yield ContrastRecord(rule=ORIGINAL, than=PERMUTED, seed=seed, generation=1, over=over)
