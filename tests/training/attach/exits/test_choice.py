from itertools import accumulate, combinations, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.exits.policy import ExitRule, read_exit, route
from training.attach.exits.choice import ChosenExits, choose_exits, count_sets
from training.attach.exits.set_search import Level, SplitAnswers
from training.errors import AttachError
from training.exits.calibrate import calibration_temperature
from training.exits.thresholds import Choices

NETWORK = 1000
LEVELS = (Level(50, 10), Level(300, 20), Level(600, 30))
CLASSES = 4
Array = NDArray[Any]


def answers(seed: int, rows: int, levels: int = 3) -> SplitAnswers:
    """Levels whose answers improve with depth and are more confident where they are right."""
    generator = np.random.default_rng(seed)
    network_NK = generator.normal(0, 2, (rows, CLASSES))
    noise_LN11 = np.linspace(2.0, 0.4, levels)[:, None, None] * generator.random((1, rows, 1)) * 2
    return SplitAnswers(network_NK + noise_LN11 * generator.normal(size=(levels, rows, CLASSES)), network_NK)


def choose(
    tune: SplitAnswers, *, epsilon: float = 0.1, exits: int = 3, levels: tuple[Level, ...] = LEVELS
) -> ChosenExits:
    return choose_exits(levels, NETWORK, answers(99, 200, len(levels)), tune, epsilon=epsilon, exits=exits)


class Routed:
    """A reference without the search: routes rows through any set of levels with any thresholds."""

    def __init__(self, tune: SplitAnswers, temperatures: tuple[float, ...]) -> None:
        pairs = zip((*tune.levels_LNK, tune.network_NK), (*temperatures, 1.0), strict=True)
        readouts = [read_exit(logits_NK, temperature) for logits_NK, temperature in pairs]
        self.confidence = [readout.confidence_B for readout in readouts]
        self.label = [readout.label_B for readout in readouts]

    def result(self, picked: tuple[int, ...], thresholds: tuple[float | None, ...]) -> tuple[float, int]:
        """Return the cost as a share of the network's, and the disagreements."""
        numbers = (*picked, -1)
        confidence_EN = np.stack([self.confidence[number] for number in numbers])
        exit_N = route(confidence_EN, ExitRule(thresholds, max_exit=len(picked)))
        label_N = np.stack([self.label[number] for number in numbers])[exit_N, np.arange(len(exit_N))]
        heads = list(accumulate(LEVELS[number].head_multiply_adds for number in picked))
        cost_E = [
            LEVELS[number].backbone_multiply_adds + head_cost
            for number, head_cost in zip(picked, heads, strict=True)
        ]
        cost_E.append(NETWORK + heads[-1])
        return sum(cost_E[number] for number in exit_N) / (len(exit_N) * NETWORK), int(
            (label_N != self.label[-1]).sum()
        )

    def optimum(self, picked: tuple[int, ...], allowed: int) -> float:
        """Return the lowest cost of a set over all choices of thresholds."""
        grids = [Choices(self.confidence[number]).thresholds for number in picked]
        results = [self.result(picked, thresholds) for thresholds in product(*grids)]
        return min(share for share, disagreements in results if disagreements <= allowed)


def routed(tune: SplitAnswers, chosen: ChosenExits) -> Routed:
    return Routed(tune, tuple(level.calibration_temperature for level in chosen.levels))


def test_the_figures_of_a_set_equal_those_of_routing_with_its_thresholds() -> None:
    tune = answers(1, 300)
    chosen = choose(tune)

    for exit_set in chosen.best_of_count.values():
        share, disagreements = routed(tune, chosen).result(exit_set.levels, exit_set.thresholds)
        assert exit_set.share == pytest.approx(share)
        assert exit_set.disagreements == disagreements <= chosen.allowed == 19
        assert sum(exit_set.exit_shares) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_single_exit_equals_a_brute_force_search(seed: int) -> None:
    tune = answers(seed, 40)
    chosen = choose(tune, exits=1)

    best = min(routed(tune, chosen).optimum((level,), chosen.allowed) for level in range(3))
    assert chosen.best.share == pytest.approx(best)


def test_the_chosen_set_is_close_to_the_best_of_all_sets_and_thresholds() -> None:
    gaps = []
    for seed in range(12):
        tune = answers(seed, 25)
        chosen = choose(tune, epsilon=0.2, exits=2)
        sets = [(level,) for level in range(3)] + list(combinations(range(3), 2))
        best = min(routed(tune, chosen).optimum(picked, chosen.allowed) for picked in sets)
        gaps.append(chosen.best.share - best)

    assert min(gaps) >= -1e-12
    assert max(gaps) < 0.05
    assert sum(gaps) / len(gaps) < 0.01


def test_the_cheapest_set_of_all_counts_is_choose() -> None:
    chosen = choose(answers(2, 400))

    assert sorted(chosen.best_of_count) == [1, 2, 3]
    assert chosen.best == min(chosen.best_of_count.values(), key=lambda exit_set: exit_set.share)


def test_a_row_pays_for_the_head_of_every_exit_it_reaches() -> None:
    chosen = choose(answers(3, 200))

    assert chosen.best_of_count[3].cost_E == (50 + 10, 300 + 10 + 20, 600 + 10 + 20 + 30, 1000 + 60)


def test_an_exit_whose_head_costs_more_than_it_saves_is_not_choose() -> None:
    costly_head = (Level(50, 700), *LEVELS[1:])
    tune = answers(6, 300)

    assert 0 in choose(tune).best.levels
    assert 0 not in choose(tune, levels=costly_head).best.levels


def test_if_no_row_may_disagree_none_does() -> None:
    chosen = choose(answers(5, 300), epsilon=0.001)

    assert chosen.allowed == 0
    assert all(exit_set.disagreements == 0 for exit_set in chosen.best_of_count.values())


def test_levels_with_random_answers_save_nothing() -> None:
    generator = np.random.default_rng(0)
    guesses = SplitAnswers(generator.normal(size=(3, 400, CLASSES)), generator.normal(size=(400, CLASSES)))

    assert choose(guesses, epsilon=0.01).best.share > 0.95


def test_early_exits_are_calibrated_on_the_networks_own_answers() -> None:
    temperature, tune = answers(6, 500), answers(7, 100)
    chosen = choose_exits(LEVELS, NETWORK, temperature, tune, epsilon=0.1, exits=1)

    network_N = temperature.network_NK.argmax(axis=1)
    for level, logits_NK in zip(chosen.levels, temperature.levels_LNK, strict=True):
        assert level.calibration_temperature == calibration_temperature(logits_NK, network_N)


def test_a_level_has_its_agreement_and_its_share_as_the_only_exit() -> None:
    tune = answers(8, 300)
    chosen = choose(tune)

    network_N = tune.network_NK.argmax(axis=1)
    agreement = [float((logits_NK.argmax(axis=1) == network_N).mean()) for logits_NK in tune.levels_LNK]
    assert [level.agreement for level in chosen.levels] == pytest.approx(agreement)
    single = choose(tune, exits=1).best
    assert chosen.levels[single.levels[0]].leaving == single.exit_shares[0]
    assert agreement == sorted(agreement)


def test_a_curve_falls_in_cost_from_no_disagreement_to_beyond_epsilon() -> None:
    tune = answers(9, 600)
    chosen = choose(tune, epsilon=0.04)

    for curve in chosen.curves:
        shares, disagreements = list(curve.cost_share), list(curve.disagreement)
        assert disagreements[0] == 0
        assert disagreements == sorted(disagreements)
        assert shares == sorted(set(shares), reverse=True)
        assert 0.04 < disagreements[-1] <= 5 * 0.04
        best = chosen.best_of_count[curve.exits]
        safer = [
            share
            for share, disagreement in zip(shares, disagreements, strict=True)
            if disagreement <= best.disagreements / 600
        ]
        assert min(safer) >= best.share - 0.02
    assert [curve.exits for curve in chosen.curves] == [1, 2, 3]
    assert len(chosen.curves[2].cost_share) > 8


def test_a_set_has_at_most_as_many_exits_as_levels() -> None:
    sets_done: list[int] = []
    tune = answers(10, 100, levels=2)
    chosen = choose_exits(
        LEVELS[:2],
        NETWORK,
        answers(99, 200, 2),
        tune,
        epsilon=0.1,
        exits=5,
        progress=sets_done.append,
    )

    assert sorted(chosen.best_of_count) == [1, 2]
    assert sum(sets_done) == chosen.tried == count_sets(2, 5) == 3


@pytest.mark.parametrize(("levels", "exits", "sets"), [(7, 3, 63), (3, 1, 3), (4, 4, 15)])
def test_the_number_of_sets_is_known_in_advance(levels: int, exits: int, sets: int) -> None:
    assert count_sets(levels, exits) == sets


def test_the_same_answers_give_the_same_choice() -> None:
    assert choose(answers(11, 150)) == choose(answers(11, 150))


def test_no_level_is_refused() -> None:
    with pytest.raises(AttachError, match="levels: expected at least 1, got 0"):
        choose(answers(0, 50, levels=0), levels=())


@pytest.mark.parametrize("costs", [(50, 50), (300, 50), (0, 50), (50, 1000)])
def test_levels_without_rising_costs_are_a_value_error(costs: tuple[int, int]) -> None:
    levels = tuple(Level(cost, 10) for cost in costs)
    with pytest.raises(ValueError, match="levels: expected rising multiply-adds below 1000, got"):
        choose(answers(0, 50, levels=2), levels=levels)
