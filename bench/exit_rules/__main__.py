"""Other exit rules against the plain one, on published versions; writes docs/exit-rules.md from its record.

    python -m bench.exit_rules models/fashion-mnist/2 runs/exit_rules/fashion-mnist-even/1

The splits are each version's own. Writes rules.json, rules.svg and the part of the page between
its comments; --page writes the last two from the record that is there.
"""

import argparse
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import scipy

from bench.exit_rules.compare import (
    CERTIFY,
    TEMPERATURE,
    TEST,
    TUNE,
    Goal,
    Judged,
    SplitLogits,
    Trial,
    certificates,
    recut,
)
from bench.exit_rules.page import PAGE, write
from bench.exit_rules.plot import plot
from bench.exit_rules.record import ComparedNetwork, ExitRulesRecord, read
from bench.exit_rules.rules import PLAIN
from serving.repository.manifest import Manifest, Risk
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from training.exits.evaluate import cumulative, evaluate
from training.exits.goals import OperatingPointSection
from training.release.origin import data_of, goals_of

OUTPUT = PAGE.parent / "exit_rules"
RESAMPLES, RECUTS = 2000, 20
SLOTS = 256
_SAME_THRESHOLD = 1e-9


def main() -> None:
    """Compare, and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.exit_rules", description=__doc__)
    parser.add_argument("versions", nargs="*", type=Path, metavar="VERSION", help="a version's folder")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, metavar="N", help=f"default {RESAMPLES}")
    parser.add_argument("--recuts", type=int, default=RECUTS, metavar="N", help=f"default {RECUTS}")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default docs/exit_rules")
    parser.add_argument(
        "--page", action="store_true", help="write plot and page from the record, and no more"
    )
    options = parser.parse_args()
    if not options.page and not options.versions:
        parser.error("expected a version's folder, got none")
    place = options.output / "rules.json"
    if not options.page:
        options.output.mkdir(parents=True, exist_ok=True)
        networks = tuple(
            compare(read_version(folder), options.resamples, options.recuts) for folder in options.versions
        )
        record = ExitRulesRecord(
            resamples=options.resamples, recuts=options.recuts, versions=_versions(), networks=networks
        )
        place.write_text(record.model_dump_json(indent=1) + "\n")
    record = read(place)
    (options.output / "rules.svg").write_text(plot(record))
    if options.output == OUTPUT:
        write(record)


def compare(version: PublishedVersion, resamples: int, recuts: int) -> ComparedNetwork:
    """Compare every rule on one version."""
    manifest = version.manifest
    goals = disagreement_goals(version)
    splits = run_splits(version)
    trial = Trial(splits, cumulative([stage.multiply_adds for stage in manifest.stages]))
    again = [Trial(recut(splits, seed), trial.cost_E) for seed in range(recuts)]
    chosen = {name: trial.certified(PLAIN, goal) for name, goal in goals.items()}
    published = {name: trial.tested(PLAIN, row)[0] for name, row in chosen.items()}
    judged = Judged(trial, resamples, tuple(published.values()))
    test = trial.readings[PLAIN][TEST]
    return ComparedNetwork(
        title=f"{manifest.name}, version {manifest.version}",
        multiply_adds=tuple(stage.multiply_adds for stage in manifest.stages),
        rows={name: len(rows.truth_N) for name, rows in splits.items()},
        exit_accuracy=tuple(test.accuracy(number).share for number in range(test.exits)),
        reproduces=all(_same(row.thresholds, manifest, name) for name, row in chosen.items()),
        published=published,
        fitted_powers=tuple(tuple(powers.tolist()) for powers in trial.powers),
        plain=judged.plain(),
        differences=judged.differences(again),
        course_budgets=judged.course,
        courses=judged.courses(),
        patience=judged.patience(),
        certified=certificates(trial, goals, again),
    )


def disagreement_goals(version: PublishedVersion) -> dict[str, Goal]:
    """Return what the points aim at that lose accuracy for a bound on disagreement, as rules are compared."""
    return {
        name: Goal(goal.max_accuracy_loss, goal.epsilon, goal.delta)
        for name, goal in goals_of(version).items()
        if isinstance(goal, OperatingPointSection)
        and goal.risk is Risk.DISAGREEMENT
        and goal.epsilon is not None
    }


def run_splits(version: PublishedVersion) -> Mapping[str, SplitLogits]:
    """Run a version's own splits through its stages."""
    dataset = data_of(version)
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=SLOTS)
    name = version.manifest.inputs[0].name
    return {
        split: SplitLogits(
            evaluate(runner, dataset.splits[split].images_NCHW, input_name=name).astype(np.float64),
            dataset.splits[split].truth_N,
        )
        for split in (TEMPERATURE, TUNE, CERTIFY, TEST)
    }


def _same(thresholds: tuple[float | None, ...], manifest: Manifest, point: str) -> bool:
    """Return whether thresholds are a published point's, but for the last digits of a sum."""
    published = manifest.operating_points[point].thresholds
    return all(
        (mine is None) == (its is None) and (mine is None or its is None or abs(mine - its) < _SAME_THRESHOLD)
        for mine, its in zip(thresholds, published, strict=True)
    )


def _versions() -> dict[str, str]:
    return {
        "Python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


if __name__ == "__main__":
    main()
