"""Tests for the comparison of an operating point with `exact`."""

import numpy as np

from examples import fashion_mnist_500, speed
from examples.answers import Answers
from examples.speed import Comparison
from serving.client import Client
from serving.repository.repository import PublishedVersion


def answers(seconds: float, labels: list[int], milliseconds: float = 1.0) -> Answers:
    count = len(labels)
    return Answers(np.array(labels), np.zeros(count, np.int64), np.full(count, milliseconds), seconds)


EXACT, BALANCED = [0, 1, 2, 3], [0, 1, 2, 2]
TRUTH = np.array([0, 1, 2, 9])
COMPARISONS = [
    Comparison(callers, "balanced", {"exact": [answers(4.0, EXACT, 3.0)] * 2, "balanced": rounds})
    for callers, rounds in (
        (1, [answers(2.0, BALANCED)] * 2),
        (32, [answers(0.5, BALANCED), answers(1.5, BALANCED)]),
    )
]


def test_images_per_second_are_those_of_all_rounds() -> None:
    one, many = COMPARISONS

    assert (one.images_per_second("exact"), one.images_per_second("balanced")) == (1.0, 2.0)
    assert (one.speedup, many.speedup) == (2.0, 4.0)


def test_the_table_has_a_line_for_each_number_of_callers_and_point() -> None:
    _, _, *lines = speed.table(COMPARISONS)

    assert [line.split() for line in lines] == [
        ["1", "exact", "1", "3.00", "3.00"],
        ["1", "balanced", "2", "1.00", "1.00"],
        ["32", "exact", "1", "3.00", "3.00"],
        ["32", "balanced", "4", "1.00", "1.00"],
    ]


def test_the_conclusion_has_the_speedup_and_its_price_in_answers() -> None:
    given = {"exact": answers(1.0, EXACT), "balanced": answers(1.0, BALANCED)}

    assert speed.conclusion(COMPARISONS, TRUTH, given) == (
        "balanced answers 4.0 times as many images a second as exact with 32 callers, 2.0 times with 1; "
        "25.0% of answers differ; accuracy 75.0% against 75.0% on the 4 images"
    )


def test_every_round_asks_both_points_for_all_images(released: PublishedVersion, client: Client) -> None:
    images_NCHW = fashion_mnist_500.load().images_NCHW[:20]
    final = len(released.manifest.stages) - 1

    comparison = speed.compare(client, released.manifest, images_NCHW, "balanced", callers=4, rounds=3)

    assert [len(rounds) for rounds in comparison.rounds.values()] == [3, 3]
    for exact, balanced in zip(comparison.rounds["exact"], comparison.rounds["balanced"], strict=True):
        assert exact.exit_N.tolist() == [final] * 20
        assert 0 in balanced.exit_N
