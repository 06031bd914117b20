"""Compare other exit rules with the largest probability: at equal multiply-adds, and by certified cost.

    python -m bench.exit_rules models/fashion-mnist/3 runs/exit_rules/models/fashion-mnist-even/1

Publishes docs/exit_rules/rules.json and the tables of docs/exit-rules.md.

Shapes: `N` rows of a split, `E` exits, `K` classes, `J` threshold choices, `P` operating points, `R`
resamples. Resample 0 is the test split itself.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from bench.publication import DOCS, RELEASED, ROOT, Publication
from serving.exits.policy import Floats, Integers, route
from serving.repository.repository import PublishedVersion, read_version
from training.exits.calibrate import calibration_temperature
from training.exits.evaluate import Readings, outcome
from training.exits.intervals import Estimate
from training.exits.thresholds import Candidate, pareto_path
from training.release.origin import data_of, goals_of
from training.reporting.conditions import package_versions
from training.reporting.markdown import WrittenPart, header, row
from training.reporting.numerals import exactly, percent
from training.reporting.record import RecordPart
from training.retarget.published import PublishedStages

VERSIONS = [RELEASED, ROOT / "runs" / "exit_rules" / "models" / "fashion-mnist-even" / "1"]
RESAMPLES = 2000
PLAIN = "largest probability"
ENTROPY, MARGIN, PRODUCT, MEAN = "entropy", "margin", "product of experts", "mean of probabilities"
ACCURACY, DISAGREEMENT = FIGURES = ("accuracy", "disagreement")


def read_rules(
    logits_ENK: NDArray[np.floating], truth_N: Integers, calibration_temperatures: Sequence[float]
) -> dict[str, Readings]:
    """Return the readings of every rule."""
    temperature_E = np.array(calibration_temperatures)[:, np.newaxis, np.newaxis]
    logs_ENK = np.asarray(log_softmax(logits_ENK.astype(np.float64) / temperature_E, axis=-1))
    probability_ENK = np.exp(logs_ENK)
    plain = Readings(probability_ENK.max(axis=-1), probability_ENK.argmax(axis=-1), truth_N)
    entropy_EN = -(probability_ENK * logs_ENK).sum(axis=-1) / np.log(logs_ENK.shape[-1])
    ordered_ENK = np.sort(probability_ENK, axis=-1)
    rules = {
        PLAIN: plain,
        ENTROPY: replace(plain, confidence_EN=np.clip(1 - entropy_EN, 0, 1)),
        MARGIN: replace(plain, confidence_EN=ordered_ENK[..., -1] - ordered_ENK[..., -2]),
    }
    exits_so_far = np.arange(1, plain.exits + 1)[:, np.newaxis, np.newaxis]
    for name, combined_ENK in (
        (PRODUCT, np.exp(log_softmax(np.cumsum(logs_ENK, axis=0), axis=-1))),
        (MEAN, np.cumsum(probability_ENK, axis=0) / exits_so_far),
    ):
        label_EN = np.concatenate([combined_ENK[:-1].argmax(axis=-1), plain.label_EN[-1:]])
        rules[name] = replace(plain, confidence_EN=combined_ENK.max(axis=-1), label_EN=label_EN)
    return rules


class PlainPoint(RecordPart):
    """Test figures of the plain rule at a published operating point."""

    point: str
    epsilon: float
    multiply_adds_share: float
    accuracy: float
    disagreement: float


class RuleResult(RecordPart):
    """Test figures of another rule, at the multiply-adds of the plain rule at a published operating point."""

    rule: str
    point: str
    accuracy: Estimate
    """Difference from the plain rule, as a share, with the paired 95 % interval."""
    disagreement: Estimate
    certified_share: float
    """Multiply-adds share of the thresholds that are certified for the point under this rule."""


class ComparedNetwork(RecordPart):
    """The comparison on one network."""

    title: str
    points: tuple[PlainPoint, ...]
    results: tuple[RuleResult, ...]


class ExitRulesRecord(RecordPart):
    """The comparison on all networks."""

    resamples: int
    versions: dict[str, str]
    networks: tuple[ComparedNetwork, ...]


def interpolate(cost_RJ: Floats, value_RJ: Floats, shares: Sequence[float]) -> Floats:
    """Interpolate a figure linearly at multiply-adds shares, [R, P]; it is constant beyond the ends."""
    rounded_RJ = np.round(cost_RJ, 10)  # removes rounding errors between equal costs
    order_RJ = np.argsort(rounded_RJ, axis=1, kind="stable")
    sorted_RJ = (np.take_along_axis(each_RJ, order_RJ, axis=1) for each_RJ in (rounded_RJ, value_RJ))
    return np.stack([np.interp(np.round(shares, 10), *pair) for pair in zip(*sorted_RJ, strict=True)])


def front(path: Sequence[Candidate], figure: str) -> list[Candidate]:
    """Return the choices that are Pareto-optimal in cost and a figure on tune, by rising cost."""
    loss = attrgetter("tune.accuracy_loss" if figure == ACCURACY else "tune.disagreement")
    kept: list[Candidate] = []
    for choice in sorted(path, key=lambda choice: (choice.tune.multiply_adds_share, loss(choice))):
        if not kept or loss(choice) < loss(kept[-1]):
            kept.append(choice)
    return kept


def resample_counts(rows: int, resamples: int) -> Floats:
    """Return how often each row occurs in every resample, [1 + R, N]; row 0 is all ones."""
    generator = np.random.default_rng(0)
    counts_RN = np.ones((1 + resamples, rows))
    for counts_N in counts_RN[1:]:
        counts_N[:] = np.bincount(generator.integers(0, rows, rows), minlength=rows)
    return counts_RN


def trade_off(
    test: Readings, choices: Sequence[Candidate], figure: str, cost_E: Sequence[int], counts_RN: Floats
) -> tuple[Floats, Floats]:
    """Return the mean cost and the mean figure of the test rows under every choice, each [R, J]."""
    exits_JN = np.stack([route(test.confidence_EN, choice.rule) for choice in choices])
    counted_EN = test.correct_EN if figure == ACCURACY else ~test.agrees_EN
    value_JN = counted_EN[exits_JN, np.arange(test.rows)].astype(np.float64)
    cost_JN = (np.asarray(cost_E) / cost_E[-1])[exits_JN]
    return counts_RN @ cost_JN.T / test.rows, counts_RN @ value_JN.T / test.rows


def paired_estimate(difference_R: Floats) -> Estimate:
    """Estimate a difference from its value in each resample."""
    low, high = np.percentile(difference_R[1:], (2.5, 97.5))
    return Estimate(float(difference_R[0]), float(low), float(high))


def compare(version: PublishedVersion, resamples: int = RESAMPLES) -> ComparedNetwork:
    """Compare every rule with the plain one, on a version's own splits."""
    dataset, goals, stages = data_of(version), goals_of(version), PublishedStages(version, print)
    cost_E = stages.cost_E
    temperatures = [
        calibration_temperature(logits_NK, dataset.temperature.truth_N)
        for logits_NK in stages.logits(dataset.temperature)
    ]
    tune, certify, test = (
        read_rules(stages.logits(split), split.truth_N, temperatures)
        for split in (dataset.tune, dataset.certify, dataset.test)
    )
    paths = {name: pareto_path(readings, cost_E) for name, readings in tune.items()}
    certified_shares = {
        (name, point): outcome(
            test[name], goal.reach(path, certify[name], cost_E).candidate.rule, cost_E
        ).multiply_adds_share
        for name, path in paths.items()
        for point, goal in goals.items()
    }
    plain_shares = [certified_shares[PLAIN, point] for point in goals]
    counts_RN = resample_counts(len(dataset.test), resamples)
    figures = {
        (name, figure): interpolate(
            *trade_off(test[name], front(path, figure), figure, cost_E, counts_RN), plain_shares
        )
        for name, path in paths.items()
        for figure in FIGURES
    }
    return ComparedNetwork(
        title=f"{version.manifest.name}, version {version.manifest.version}",
        points=tuple(
            PlainPoint(
                point=point,
                epsilon=goal.epsilon or 0,
                multiply_adds_share=certified_shares[PLAIN, point],
                **{figure: figures[PLAIN, figure][0, number] for figure in FIGURES},
            )
            for number, (point, goal) in enumerate(goals.items())
        ),
        results=tuple(
            RuleResult(
                rule=name,
                point=point,
                certified_share=certified_shares[name, point],
                **{
                    figure: paired_estimate((figures[name, figure] - figures[PLAIN, figure])[:, number])
                    for figure in FIGURES
                },
            )
            for name in paths
            if name != PLAIN
            for number, point in enumerate(goals)
        ),
    )


def lines(record: ExitRulesRecord) -> Iterator[str]:
    """Yield a table for every network."""
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    yield (
        "The first row of a table has the plain rule's own figures. The other rows have differences from it "
        f"in points, with 95 % intervals from {record.resamples:,} paired resamples of the test rows. "
        f"*Certified cost* is the cost of the thresholds that are certified under the rule. {versions}, CPU."
    )
    for network in record.networks:
        yield from ("", f"### {network.title}", "")
        yield from _table(network)


def _table(network: ComparedNetwork) -> Iterator[str]:
    heads = [
        f"`{each.point}`, {exactly(each.epsilon)} certified: {ACCURACY} | {DISAGREEMENT} | certified cost"
        for each in network.points
    ]
    yield header("rule", *heads)
    plain = [
        f"{percent(each.accuracy, 2)} | {percent(each.disagreement, 2)} | {percent(each.multiply_adds_share)}"
        for each in network.points
    ]
    yield row(PLAIN, *plain)
    for name, results in groupby(network.results, key=lambda result: result.rule):
        others = [
            f"{_format(each.accuracy)} | {_format(each.disagreement)} | {percent(each.certified_share)}"
            for each in results
        ]
        yield row(name, *others)


def _format(difference: Estimate) -> str:
    value, low, high = (_points(share) for share in astuple(difference))
    return f"{value} ({low} to {high})"


def _points(share: float) -> str:
    formatted = f"{100 * share:+.2f}".replace("-", "\N{MINUS SIGN}")
    return "0.00" if formatted[1:] == "0.00" else formatted


def _measure(options: argparse.Namespace) -> ExitRulesRecord:
    return ExitRulesRecord(
        resamples=RESAMPLES,
        versions=package_versions(("onnxruntime", "numpy", "scipy")),
        networks=tuple(compare(read_version(folder)) for folder in options.versions),
    )


PUBLICATION = Publication(
    record_type=ExitRulesRecord,
    path=DOCS / "exit_rules" / "rules.json",
    page=DOCS / "exit-rules.md",
    part=WrittenPart("rules", "python -m bench.exit_rules"),
    lines=lines,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.exit_rules", description=__doc__)
    parser.add_argument("versions", nargs="*", type=Path, default=VERSIONS, help="folders of versions")
    PUBLICATION.run(parser, _measure)
