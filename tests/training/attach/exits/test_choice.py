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
LEVELS = (Level("stem", 50, 10), Level("middle", 300, 20), Level("late", 600, 30))
CLASSES = 4
Array = NDArray[Any]


def answers(seed: int, rows: int, levels: int = 3) -> SplitAnswers:
    """Levels that grow better with depth, surer of what they get right."""
    generator = np.random.default_rng(seed)
    network_NK = generator.normal(0, 2, (rows, CLASSES))
    noise_LN11 = np.linspace(2.0, 0.4, levels)[:, None, None] * generator.random((1, rows, 1)) * 2
    return SplitAnswers(network_NK + noise_LN11 * generator.normal(size=(levels, rows, CLASSES)), network_NK)


def chosen(
    tune: SplitAnswers, *, epsilon: float = 0.1, exits: int = 3, levels: tuple[Level, ...] = LEVELS
) -> ChosenExits:
    return choose_exits(levels, NETWORK, answers(99, 200, len(levels)), tune, epsilon=epsilon, exits=exits)


class Routed:
    """Any set of levels under any thresholds, routed and counted without the search."""

    def __init__(self, tune: SplitAnswers, temperatures: tuple[float, ...]) -> None:
        pairs = zip((*tune.levels_LNK, tune.network_NK), (*temperatures, 1.0), strict=True)
        readouts = [read_exit(logits_NK, temperature) for logits_NK, temperature in pairs]
        self.confidence = [each.confidence_B for each in readouts]
        self.label = [each.label_B for each in readouts]

    def result(self, picked: tuple[int, ...], thresholds: tuple[float | None, ...]) -> tuple[float, int]:
        """Return the share of the network's cost, and the disagreements."""
        numbers = (*picked, -1)
        confidence_EN = np.stack([self.confidence[number] for number in numbers])
        exit_N = route(confidence_EN, ExitRule(thresholds, max_exit=len(picked)))
        label_N = np.stack([self.label[number] for number in numbers])[exit_N, np.arange(len(exit_N))]
        heads = list(accumulate(LEVELS[number].head_multiply_adds for number in picked))
        cost_E = [
            LEVELS[number].backbone_multiply_adds + paid for number, paid in zip(picked, heads, strict=True)
        ]
        cost_E.append(NETWORK + heads[-1])
        return sum(cost_E[number] for number in exit_N) / (len(exit_N) * NETWORK), int(
            (label_N != self.label[-1]).sum()
        )

    def optimum(self, picked: tuple[int, ...], allowed: int) -> float:
        """Return the least cost of a set over every choice of thresholds there is."""
        grids = [Choices(self.confidence[number]).thresholds for number in picked]
        results = [self.result(picked, thresholds) for thresholds in product(*grids)]
        return min(share for share, disagreements in results if disagreements <= allowed)


def routed(tune: SplitAnswers, found: ChosenExits) -> Routed:
    return Routed(tune, tuple(level.calibration_temperature for level in found.levels))


def test_what_is_told_of_a_set_is_what_routing_under_its_thresholds_gives() -> None:
    tune = answers(1, 300)
    found = chosen(tune)

    for each in found.best_of_count.values():
        share, disagreements = routed(tune, found).result(each.levels, each.thresholds)
        assert each.share == pytest.approx(share)
        assert each.disagreements == disagreements <= found.allowed == 19
        assert sum(each.exit_shares) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_single_exit_is_the_best_there_is(seed: int) -> None:
    tune = answers(seed, 40)
    found = chosen(tune, exits=1)

    best = min(routed(tune, found).optimum((level,), found.allowed) for level in range(3))
    assert found.best.share == pytest.approx(best)


def test_the_chosen_set_is_close_to_the_best_of_all_sets_and_thresholds() -> None:
    gaps = []
    for seed in range(12):
        tune = answers(seed, 25)
        found = chosen(tune, epsilon=0.2, exits=2)
        sets = [(level,) for level in range(3)] + list(combinations(range(3), 2))
        best = min(routed(tune, found).optimum(picked, found.allowed) for picked in sets)
        gaps.append(found.best.share - best)

    assert min(gaps) >= -1e-12
    assert max(gaps) < 0.05
    assert sum(gaps) / len(gaps) < 0.01


def test_the_cheapest_of_all_counts_is_taken() -> None:
    found = chosen(answers(2, 400))

    assert sorted(found.best_of_count) == [1, 2, 3]
    assert found.best == min(found.best_of_count.values(), key=lambda each: each.share)


def test_every_exit_that_a_row_passes_costs_its_head() -> None:
    found = chosen(answers(3, 200))

    assert found.best_of_count[3].cost_E == (50 + 10, 300 + 10 + 20, 600 + 10 + 20 + 30, 1000 + 60)


def test_an_exit_whose_head_costs_more_than_it_saves_is_not_chosen() -> None:
    dear = (Level("stem", 50, 700), *LEVELS[1:])
    tune = answers(6, 300)

    assert 0 in chosen(tune).best.levels
    assert 0 not in chosen(tune, levels=dear).best.levels


def test_where_no_row_may_disagree_none_does() -> None:
    found = chosen(answers(5, 300), epsilon=0.001)

    assert found.allowed == 0
    assert all(each.disagreements == 0 for each in found.best_of_count.values())


def test_levels_that_know_nothing_save_nothing() -> None:
    generator = np.random.default_rng(0)
    guesses = SplitAnswers(generator.normal(size=(3, 400, CLASSES)), generator.normal(size=(400, CLASSES)))

    assert chosen(guesses, epsilon=0.01).best.share > 0.95


def test_early_exits_are_calibrated_on_the_networks_own_answers() -> None:
    temperature, tune = answers(6, 500), answers(7, 100)
    found = choose_exits(LEVELS, NETWORK, temperature, tune, epsilon=0.1, exits=1)

    own_N = temperature.network_NK.argmax(axis=1)
    for level, logits_NK in zip(found.levels, temperature.levels_LNK, strict=True):
        assert level.calibration_temperature == calibration_temperature(logits_NK, own_N)


def test_a_level_is_told_with_its_agreement_and_what_leaves_there_alone() -> None:
    tune = answers(8, 300)
    found = chosen(tune)

    own_N = tune.network_NK.argmax(axis=1)
    agreement = [float((logits_NK.argmax(axis=1) == own_N).mean()) for logits_NK in tune.levels_LNK]
    assert [level.agreement for level in found.levels] == pytest.approx(agreement)
    single = chosen(tune, exits=1).best
    assert found.levels[single.levels[0]].leaving == single.exit_shares[0]
    assert agreement == sorted(agreement)


def test_a_curve_reaches_from_no_disagreement_beyond_epsilon_at_falling_cost() -> None:
    tune = answers(9, 600)
    found = chosen(tune, epsilon=0.04)

    for count, curve in found.curves.items():
        shares, disagreements = (
            [getattr(point, key) for point in curve] for key in ("share", "disagreement")
        )
        assert disagreements[0] == 0
        assert disagreements == sorted(disagreements)
        assert shares == sorted(set(shares), reverse=True)
        assert 0.04 < disagreements[-1] <= 5 * 0.04
        best = found.best_of_count[count]
        safer = [point.share for point in curve if point.disagreement <= best.disagreements / 600]
        assert min(safer) >= best.share - 0.02
    assert len(found.curves[3]) > 8


def test_more_exits_are_never_tried_than_there_are_levels() -> None:
    told: list[int] = []
    tune = answers(10, 100, levels=2)
    found = choose_exits(
        LEVELS[:2],
        NETWORK,
        answers(99, 200, 2),
        tune,
        epsilon=0.1,
        exits=5,
        progress=told.append,
    )

    assert sorted(found.best_of_count) == [1, 2]
    assert sum(told) == found.tried == count_sets(2, 5) == 3


@pytest.mark.parametrize(("levels", "exits", "sets"), [(7, 3, 63), (3, 1, 3), (4, 4, 15)])
def test_sets_are_counted_before_they_are_tried(levels: int, exits: int, sets: int) -> None:
    assert count_sets(levels, exits) == sets


def test_the_same_answers_give_the_same_choice() -> None:
    assert chosen(answers(11, 150)) == chosen(answers(11, 150))


def test_no_place_for_an_exit_is_said_in_a_line() -> None:
    with pytest.raises(AttachError, match="levels: expected at least 1 place for an exit, got 0"):
        chosen(answers(0, 50, levels=0), levels=())


@pytest.mark.parametrize("costs", [(50, 50), (300, 50), (0, 50), (50, 1000)])
def test_levels_that_do_not_rise_below_the_network_are_our_own_mistake(costs: tuple[int, int]) -> None:
    levels = tuple(Level("level", cost, 10) for cost in costs)
    with pytest.raises(ValueError, match="levels: expected rising multiply-adds below 1000, got"):
        chosen(answers(0, 50, levels=2), levels=levels)
