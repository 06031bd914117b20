"""Each split affects only its own choices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.born_again.generations import TrainedGeneration
from training.born_again.progress import ProgressBar
from training.data.registry import load_source
from training.data.splits import Dataset, Split, SplitRows, cut
from training.exits.goals import OperatingPointSection
from training.exits.intervals import mcnemar
from training.exits.reliability import measure
from training.pipeline.assessment import ChosenPoints, Exported, choose
from training.pipeline.folder import RunFolder
from training.pipeline.from_recipe import make_network
from training.pipeline.run import find_out
from training.recipe.recipe import Recipe
from training.release.export import export_network
from training.release.findings import Findings
from training.release.summary import make_summary

# All different, so that n identifies the split of a result.
ROWS = SplitRows(temperature=90, tune=210, certify=190, test=350)
GOALS = {"anything": OperatingPointSection(max_accuracy_loss=1.0, epsilon=0.9)}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return cut(load_source("digits"), split_seed=0, rows=ROWS)


def barely_trained(recipe: Recipe, dataset: Dataset, steps: int) -> TrainedGeneration:
    torch.manual_seed(steps)
    network = make_network(recipe, dataset)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    images = torch.from_numpy(dataset.train.images_NCHW)
    truth_N = torch.from_numpy(dataset.train.truth_N)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(torch.nn.functional.cross_entropy(logits, truth_N) for logits in network(images)).backward()  # type: ignore[union-attr]
        optimizer.step()
    return TrainedGeneration(steps, network.eval(), ())


@pytest.fixture(scope="module")
def exported(tiny_recipe: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    network = barely_trained(tiny_recipe, dataset, 8).network
    return export_network(network, dataset, tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def chosen(exported: Exported, dataset: Dataset) -> ChosenPoints:
    return choose(exported, dataset, GOALS)


def with_noise(split: Split) -> Split:
    noise = np.random.default_rng(7).integers(0, 17, split.images_NCHW.shape, dtype=np.uint8)
    return replace(split, images_NCHW=noise)


def test_a_certificate_is_tested_on_the_certify_split(chosen: ChosenPoints) -> None:
    tested = chosen.points["anything"].tested
    assert tested
    assert {row.outcome.n for row in tested} == {ROWS.certify}
    assert chosen.tune.rows == ROWS.tune


def test_the_certify_split_changes_only_certificates(
    exported: Exported, dataset: Dataset, chosen: ChosenPoints
) -> None:
    other = choose(exported, replace(dataset, certify=with_noise(dataset.certify)), GOALS)
    assert other.calibration_temperatures == chosen.calibration_temperatures
    assert other.path == chosen.path
    assert other.points["anything"].tested != chosen.points["anything"].tested


def test_the_tune_split_changes_the_path_but_no_temperature(
    exported: Exported, dataset: Dataset, chosen: ChosenPoints
) -> None:
    other = choose(exported, replace(dataset, tune=with_noise(dataset.tune)), GOALS)
    assert other.calibration_temperatures == chosen.calibration_temperatures
    assert other.path != chosen.path


def test_neither_train_nor_test_split_changes_a_choice(
    exported: Exported, dataset: Dataset, chosen: ChosenPoints
) -> None:
    noisy = replace(dataset, train=with_noise(dataset.train), test=with_noise(dataset.test))
    other = choose(exported, noisy, GOALS)
    assert other.calibration_temperatures == chosen.calibration_temperatures
    assert (other.path, other.points) == (chosen.path, chosen.points)


@pytest.fixture(scope="module")
def findings(tiny_recipe: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    generations = [
        replace(barely_trained(tiny_recipe, dataset, steps), number=number)
        for number, steps in enumerate((2, 12))
    ]
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    for generation in generations:
        folder.generation_folder(generation.number).mkdir()
    return find_out(tiny_recipe, "tiny", dataset, generations, folder, ProgressBar(quiet=True))


def test_promotion_compares_the_generations_on_tune(findings: Findings) -> None:
    first, second = (each.chosen.tune.correct_EN[-1] for each in findings.assessments)
    assert len(first) == ROWS.tune
    assert findings.promotion.p_values == (None, mcnemar(first, second))


def test_a_gain_is_positive_if_the_later_generation_is_more_accurate(
    findings: Findings, tmp_path: Path
) -> None:
    before, after = (each.test_E[-1] for each in make_summary(findings, tmp_path / "1").generations)
    gain = make_summary(findings, tmp_path / "1").generations[1].gain
    assert gain is not None
    assert gain.value == pytest.approx((after.successes - before.successes) / ROWS.test)  # type: ignore[operator]
    assert gain.value > 0


def test_reliability_is_measured_at_temperature_1_and_at_the_fitted_one(
    findings: Findings, tmp_path: Path
) -> None:
    tested = findings.best.tested
    truth_N = tested.readings.truth_N
    for number, each in enumerate(make_summary(findings, tmp_path / "1").exits):
        assert each.calibration_temperature != 1.0
        assert each.every_row.before == measure(tested.logits_ENK[number], truth_N, 1.0)
        assert each.every_row.after == measure(
            tested.logits_ENK[number], truth_N, each.calibration_temperature
        )
        expected = findings.best.exits[number].expected_calibration_error
        assert each.every_row.after.expected_calibration_error == expected


def test_the_rows_arriving_at_an_exit_are_those_that_left_at_it_or_later(
    findings: Findings, tmp_path: Path
) -> None:
    exit_counts = findings.best.tested.outcomes["balanced"].exit_counts
    for number, each in enumerate(make_summary(findings, tmp_path / "1").exits):
        arriving_rows = sum(exit_counts[number:])
        assert each.every_row.before.n == each.every_row.after.n == ROWS.test
        if each.arriving is None:
            assert number == 0 or arriving_rows == 0  # at exit 0 all arrive
        else:
            assert each.arriving.before.n == each.arriving.after.n == arriving_rows
