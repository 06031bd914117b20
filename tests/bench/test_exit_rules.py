"""Exit rules against hand-written ones, the comparison's arithmetic, and a page that says what was found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.exit_rules import page
from bench.exit_rules.__main__ import disagreement_goals, run_splits
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
from bench.exit_rules.curves import Curve, Resamples, front, interval, joint_intervals
from bench.exit_rules.plot import plot
from bench.exit_rules.record import ACCURACY, BETTER, DISAGREEMENT, read
from bench.exit_rules.rules import (
    ENTROPY,
    FITTED,
    MARGIN,
    MEAN,
    MOST_CONFIDENT,
    PLAIN,
    PRODUCT,
    TO_THE_END,
    fit_weights,
    fitted_product,
    leave_patiently,
    log_probabilities,
    make_rules,
)
from serving.exits.policy import Floats
from serving.repository.repository import read_version
from tests.training.exits.candidates import candidate_with
from training.errors import DatasetError
from training.exits.evaluate import read as read_logits
from training.recipe.recipe import load_recipe

ROOT = Path(__file__).parent.parent.parent
RECORD = ROOT / "docs" / "exit_rules" / "rules.json"
TEMPERATURES = (1.3, 0.9, 1.1)
COST_E = (10, 40, 100)


def rows(n: int, seed: int) -> SplitLogits:
    """Make exits of which each is somewhat more often right than the one before."""
    generator = np.random.default_rng(seed)
    truth_N = generator.integers(0, 4, n)
    common_NK = generator.normal(size=(n, 4))
    lift = 2.5 * np.eye(4)[truth_N]
    logits_ENK = np.stack(
        [common_NK + 0.6 * generator.normal(size=(n, 4)) + (1 + 0.3 * number) * lift for number in range(3)]
    )
    return SplitLogits(logits_ENK, truth_N)


@pytest.fixture(scope="module")
def probabilities() -> Floats:
    return np.exp(log_probabilities(rows(40, 0).logits_ENK, TEMPERATURES))


@pytest.fixture(scope="module")
def trial() -> Trial:
    splits = {TEMPERATURE: rows(200, 1), TUNE: rows(300, 2), CERTIFY: rows(400, 3), TEST: rows(500, 4)}
    return Trial(splits, COST_E)


def test_every_rule_scores_and_answers_as_written_by_hand(probabilities: Floats) -> None:
    probability_ENK = probabilities
    exits, n, classes = probability_ENK.shape
    truth_N = np.zeros(n, dtype=np.int64)
    rules = make_rules(np.log(probability_ENK), rows(40, 0).truth_N)
    found = {name: rule(np.log(probability_ENK), truth_N) for name, rule in rules.items()}
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
                MOST_CONFIDENT: max(own),
                PRODUCT: product.max(),
                MEAN: so_far.mean(axis=0).max(),
            }
            for name, score in expected.items():
                assert found[name].confidence_EN[exit_number, row] == pytest.approx(score)
            assert found[PRODUCT + TO_THE_END].label_EN[exit_number, row] == product.argmax()
            assert found[MEAN + TO_THE_END].label_EN[exit_number, row] == so_far.mean(axis=0).argmax()
    final_N = probability_ENK[-1].argmax(axis=-1)
    for name in (PLAIN, ENTROPY, MARGIN, PRODUCT, FITTED, MEAN):
        assert (found[name].label_EN[-1] == final_N).all()
    surest_N = probability_ENK.max(axis=-1).argmax(axis=0)
    labels_EN = probability_ENK.argmax(axis=-1)
    assert (found[MOST_CONFIDENT].label_EN[-1] == labels_EN[surest_N, np.arange(n)]).all()
    assert (found[MOST_CONFIDENT].agrees_EN[-1] == (found[MOST_CONFIDENT].label_EN[-1] == final_N)).all()


def test_the_plain_rule_reads_as_the_server_does() -> None:
    made = rows(50, 5)
    logs = log_probabilities(made.logits_ENK, TEMPERATURES)
    found = make_rules(logs, made.truth_N)[PLAIN](logs, made.truth_N)
    expected = read_logits(made.logits_ENK, made.truth_N, TEMPERATURES)

    np.testing.assert_allclose(found.confidence_EN, expected.confidence_EN, rtol=1e-12)
    assert (found.label_EN == expected.label_EN).all()


def test_patience_leaves_where_so_many_exits_in_a_row_agree() -> None:
    label_EN = np.array([[1, 1, 1, 2], [1, 0, 0, 1], [1, 0, 1, 2], [1, 2, 1, 1]])

    assert leave_patiently(label_EN, 1).tolist() == [0, 0, 0, 0]
    assert leave_patiently(label_EN, 2).tolist() == [1, 2, 3, 3]
    assert leave_patiently(label_EN, 3).tolist() == [2, 3, 3, 3]


def test_fitted_powers_are_no_worse_than_any_exit_alone_or_all_at_once() -> None:
    made = rows(300, 6)
    logs = log_probabilities(made.logits_ENK, TEMPERATURES)
    every_N = np.arange(300)

    def loss(powers: tuple[Floats, ...]) -> float:
        return float(-np.log(fitted_product(logs, powers)[-1, every_N, made.truth_N]).mean())

    fitted = fit_weights(logs, made.truth_N)
    others = [*np.eye(3), np.ones(3), np.full(3, 1 / 3)]
    assert all((powers >= 0).all() for powers in fitted)
    assert loss(fitted) <= min(loss((fitted[0], fitted[1], other)) for other in others) + 1e-9


def test_a_curve_is_linear_between_its_points_and_level_beyond_them() -> None:
    found = Curve(np.array([[0.6, 0.2]]), np.array([[0.9, 0.5]]))

    assert found.at(np.array([[0.1, 0.2, 0.4, 0.6, 1.0]])).tolist() == [
        pytest.approx([0.5, 0.5, 0.7, 0.9, 0.9])
    ]


def test_the_front_keeps_what_nothing_beats() -> None:
    exact, good, beaten, cheap = (
        candidate_with((None,), 0.0, 0.0, 1.0),
        candidate_with((0.9,), 0.01, 0.02, 0.5),
        candidate_with((0.8,), 0.02, 0.03, 0.6),
        candidate_with((0.7,), 0.05, 0.01, 0.3),
    )
    path = [exact, beaten, good, cheap]
    assert front(path, ACCURACY) == [cheap, good, exact]
    assert front(path, DISAGREEMENT) == [cheap, exact]


def test_resamples_pair_all_values_and_begin_with_the_rows_as_they_are() -> None:
    value_N = np.random.default_rng(0).random(200)
    mean_RJ = Resamples(200, 300, seed=1).means(np.stack([value_N, value_N + 0.25]))

    np.testing.assert_allclose(mean_RJ[:, 1] - mean_RJ[:, 0], 0.25, atol=1e-6)
    assert mean_RJ[0, 0] == pytest.approx(value_N.mean())
    assert mean_RJ[1:, 0].std() == pytest.approx(value_N.std() / np.sqrt(200), rel=0.15)


def test_joint_intervals_are_wider_than_each_alone() -> None:
    drawn_RD = np.random.default_rng(0).normal(size=(2001, 8))
    alone = [interval(drawn_RD[:, number]) for number in range(8)]
    for one, joint in zip(alone, joint_intervals(drawn_RD), strict=True):
        assert joint.high - joint.low > one.high - one.low


def test_a_recut_deals_the_same_rows_anew_and_leaves_test_alone() -> None:
    splits = {TEMPERATURE: rows(20, 1), TUNE: rows(30, 2), CERTIFY: rows(40, 3), TEST: rows(50, 4)}
    again = recut(splits, seed=0)

    def dealt(cut: dict[str, SplitLogits]) -> list[float]:
        return sorted(float(cut[name].logits_ENK[0, :, 0].sum()) for name in (TEMPERATURE, TUNE, CERTIFY))

    def pooled(cut: dict[str, SplitLogits]) -> list[float]:
        values = np.concatenate([cut[name].logits_ENK[0, :, 0] for name in (TEMPERATURE, TUNE, CERTIFY)])
        return sorted(values.tolist())

    assert pooled(again) == pooled(splits)
    assert dealt(again) != dealt(splits)
    assert {name: len(cut.truth_N) for name, cut in again.items()} == {
        name: len(cut.truth_N) for name, cut in splits.items()
    }
    assert again[TEST] is splits[TEST]


def test_the_plain_rule_differs_from_itself_by_nothing_and_all_others_are_compared(trial: Trial) -> None:
    goals = {"balanced": Goal(0.02, 0.1, 0.05)}
    share = trial.tested(PLAIN, trial.certified(PLAIN, goals["balanced"]))[0]
    judged = Judged(trial, 20, [share])
    differences = judged.differences([trial])
    certified = certificates(trial, goals, [trial])

    assert {each.rule for each in differences} == set(trial.paths) - {PLAIN}
    assert [each.recut_change for each in certified if each.rule == PLAIN] == [0.0]
    assert {each.budget for each in differences if each.jointly is not None} == {share}
    for each in differences:
        assert each.alone.value == pytest.approx(each.recut_change)
        assert each.recuts_better == (BETTER[each.figure] * each.recut_change > 0)


def test_rules_are_compared_for_the_points_that_promise_agreement() -> None:
    released = read_version(ROOT / "models" / "fashion-mnist" / "2")
    provenance = released.manifest.provenance
    assert provenance.retargeted_from is not None
    wild = {"max_accuracy_loss": 0.01, "certified_by": "nothing"}
    goals = provenance.retargeted_from.goals | {"wild": wild, "cheap": {"budget": 0.2}}
    retargeted = provenance.retargeted_from.model_copy(update={"goals": goals})
    other = released.manifest.model_copy(
        update={"provenance": provenance.model_copy(update={"retargeted_from": retargeted})}
    )

    assert disagreement_goals(replace(released, manifest=other)) == {
        "balanced": Goal(0.003, 0.01, 0.05),
        "fast": Goal(0.01, 0.03, 0.05),
    }


def test_rows_other_than_those_of_the_versions_figures_are_refused() -> None:
    released = read_version(ROOT / "models" / "fashion-mnist" / "2")
    recipe = {"dataset": {"name": "digits", "test_rows": 360}}
    provenance = released.manifest.provenance.model_copy(update={"recipe": recipe})
    other = released.manifest.model_copy(update={"provenance": provenance})

    with pytest.raises(DatasetError, match=r'dataset "digits": digest: expected [0-9a-f]{64} as '):
        run_splits(replace(released, manifest=other))


def test_the_second_networks_recipe_is_one() -> None:
    recipe = load_recipe(str(ROOT / "bench" / "exit_rules" / "even.toml"))

    assert recipe.model in {network.title.split(",")[0] for network in read(RECORD).networks}


def test_the_page_and_its_plot_say_what_the_record_holds() -> None:
    record = read(RECORD)

    assert "\n".join(page.lines(record)) in page.PAGE.read_text()
    assert plot(record) == (RECORD.parent / "rules.svg").read_text()
    assert all(network.reproduces for network in record.networks)
