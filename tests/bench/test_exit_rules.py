"""Tests for the comparison of exit rules: scores against hand-written ones, curves, resamples, the page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from bench.exit_rules import (
    ACCURACY,
    DISAGREEMENT,
    ENTROPY,
    MARGIN,
    MEAN,
    PLAIN,
    PRODUCT,
    PUBLICATION,
    compare,
    front,
    interpolate,
    paired_estimate,
    read_rules,
    resample_counts,
    trade_off,
)
from serving.exits.policy import Floats, Integers
from serving.repository.repository import read_version
from tests.training.exits.candidates import candidate_with
from training.errors import DatasetError
from training.exits.evaluate import outcome
from training.exits.evaluate import read as read_logits
from training.exits.intervals import Estimate
from training.exits.thresholds import pareto_path
from training.recipe.recipe import load_recipe

ROOT = Path(__file__).parent.parent.parent
TEMPERATURES = (1.3, 0.9, 1.1)
COST_E = (10, 40, 100)


def rows(n: int, seed: int) -> tuple[Floats, Integers]:
    """Return logits of three exits, each more accurate than the one before, and the true labels."""
    generator = np.random.default_rng(seed)
    truth_N = generator.integers(0, 4, n)
    common_NK = generator.normal(size=(n, 4))
    lift = 2.5 * np.eye(4)[truth_N]
    logits_ENK = np.stack(
        [common_NK + 0.6 * generator.normal(size=(n, 4)) + (1 + 0.3 * number) * lift for number in range(3)]
    )
    return logits_ENK, truth_N


def test_every_rule_scores_and_answers_as_written_by_hand() -> None:
    logits_ENK, truth_N = rows(40, 0)
    probability_ENK = softmax(logits_ENK / np.array(TEMPERATURES)[:, np.newaxis, np.newaxis], axis=-1)
    exits, n, classes = probability_ENK.shape
    readings = read_rules(logits_ENK, truth_N, TEMPERATURES)
    for exit_number in range(exits):
        for row in range(n):
            own = probability_ENK[exit_number, row].tolist()
            so_far = probability_ENK[: exit_number + 1, row]
            product = np.prod(so_far, axis=0) / np.prod(so_far, axis=0).sum()
            ordered = sorted(own)
            expected = {
                PLAIN: max(own),
                ENTROPY: 1 + sum(p * np.log(p) for p in own) / np.log(classes),
                MARGIN: ordered[-1] - ordered[-2],
                PRODUCT: product.max(),
                MEAN: so_far.mean(axis=0).max(),
            }
            for name, score in expected.items():
                assert readings[name].confidence_EN[exit_number, row] == pytest.approx(score)
            last = exit_number == exits - 1
            combined_label = int(np.argmax(own)) if last else product.argmax()
            assert readings[PRODUCT].label_EN[exit_number, row] == combined_label
            mean_label = int(np.argmax(own)) if last else so_far.mean(axis=0).argmax()
            assert readings[MEAN].label_EN[exit_number, row] == mean_label
    for name in (PLAIN, ENTROPY, MARGIN):
        assert (readings[name].label_EN == probability_ENK.argmax(axis=-1)).all()


def test_the_plain_rule_reads_as_the_server_does() -> None:
    logits_ENK, truth_N = rows(50, 5)
    plain = read_rules(logits_ENK, truth_N, TEMPERATURES)[PLAIN]
    expected = read_logits(logits_ENK, truth_N, TEMPERATURES)

    np.testing.assert_allclose(plain.confidence_EN, expected.confidence_EN, rtol=1e-12)
    assert (plain.label_EN == expected.label_EN).all()


def test_a_curve_is_linear_between_its_points_and_constant_beyond_them() -> None:
    values = interpolate(np.array([[0.6, 0.2]]), np.array([[0.9, 0.5]]), [0.1, 0.2, 0.4, 0.6, 1.0])

    assert values.tolist() == [pytest.approx([0.5, 0.5, 0.7, 0.9, 0.9])]


def test_the_front_keeps_the_choices_that_no_other_beats() -> None:
    exact, good, beaten, cheap = (
        candidate_with((None,), 0.0, 0.0, 1.0),
        candidate_with((0.9,), 0.01, 0.02, 0.5),
        candidate_with((0.8,), 0.02, 0.03, 0.6),
        candidate_with((0.7,), 0.05, 0.01, 0.3),
    )
    path = [exact, beaten, good, cheap]
    assert front(path, ACCURACY) == [cheap, good, exact]
    assert front(path, DISAGREEMENT) == [cheap, exact]


def test_resamples_pair_all_values_and_the_first_is_the_split_itself() -> None:
    value_N = np.random.default_rng(0).random(200)
    mean_RJ = resample_counts(200, 300) @ np.stack([value_N, value_N + 0.25]).T / 200

    np.testing.assert_allclose(mean_RJ[:, 1] - mean_RJ[:, 0], 0.25, atol=1e-6)
    assert mean_RJ[0, 0] == pytest.approx(value_N.mean())
    assert mean_RJ[1:, 0].std() == pytest.approx(value_N.std() / np.sqrt(200), rel=0.15)


def test_an_interval_is_of_the_resamples_and_its_value_of_the_split() -> None:
    assert paired_estimate(np.concatenate([[7.0], np.arange(101.0)])) == Estimate(7, 2.5, 97.5)


def test_a_curve_has_the_cost_and_figures_that_counting_gives() -> None:
    logits_ENK, truth_N = rows(300, 2)
    readings = read_rules(logits_ENK, truth_N, TEMPERATURES)
    for name, each in readings.items():
        path = pareto_path(each, COST_E)
        counted = [outcome(each, choice.rule, COST_E) for choice in path]
        for figure in (ACCURACY, DISAGREEMENT):
            cost_RJ, value_RJ = trade_off(each, path, figure, COST_E, resample_counts(300, 1))
            assert cost_RJ[0] == pytest.approx([one.multiply_adds_share for one in counted]), name
            assert value_RJ[0] == pytest.approx([getattr(one, figure) for one in counted]), name


def test_a_dataset_other_than_the_versions_own_is_refused() -> None:
    released = read_version(ROOT / "models" / "fashion-mnist" / "3")
    recipe = {"dataset": {"name": "digits", "test_rows": 360}}
    provenance = released.manifest.provenance.model_copy(update={"recipe": recipe})
    other = released.manifest.model_copy(update={"provenance": provenance})

    with pytest.raises(DatasetError, match=r'dataset "digits": digest: expected [0-9a-f]{64} as '):
        compare(replace(released, manifest=other))


def test_the_recipe_of_the_second_network_is_valid() -> None:
    recipe = load_recipe(str(ROOT / "bench" / "exit_rules.toml"))

    assert recipe.model in {network.title.split(",")[0] for network in PUBLICATION.read().networks}


def test_the_verdict_of_the_page_is_that_of_the_record() -> None:
    released, second = PUBLICATION.read().networks
    losing = [
        {each.rule for each in network.results if each.accuracy.high < 0 or each.disagreement.low > 0}
        for network in (released, second)
    ]
    margin = next(each for each in released.results if (each.rule, each.point) == (MARGIN, "fast"))

    assert not any(result.accuracy.low > 0 for result in (*released.results, *second.results))
    assert losing == [{ENTROPY, PRODUCT, MEAN}] * 2
    assert f"{-100 * margin.disagreement.value:.2f} points less disagreement" in PUBLICATION.page.read_text()
