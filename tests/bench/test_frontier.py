"""The comparison with networks without exits: the cascade, and the published counts."""

import tomllib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.frontier import (
    BACKBONE,
    EXITS,
    LABELS,
    NETWORKS,
    PUBLICATION,
    TAUGHT,
    Cascade,
    Entry,
    compared,
    lone_milliseconds,
)
from training.data.splits import Split
from training.pipeline.baselines import without_exits
from training.recipe.recipe import load_recipe

SPLIT = Split(np.zeros((4, 1, 2, 2), np.uint8), np.arange(4), "")


@dataclass(frozen=True)
class Constant:
    """Stages that return the same logits for every row."""

    cost_E: tuple[int, ...]
    logits_EK: NDArray[np.float32]

    def logits(self, split: Split) -> NDArray[np.float32]:
        return np.repeat(self.logits_EK[:, np.newaxis], len(split), axis=1)


def test_a_cascade_runs_the_full_depth_of_the_large_network_after_the_small_one() -> None:
    small = Constant((3,), np.array([[1, 0]], np.float32))
    large = Constant((5, 20), np.array([[7, 7], [0, 2]], np.float32))
    cascade = Cascade(small, large)
    assert cascade.cost_E == (3, 23)
    np.testing.assert_array_equal(cascade.logits(SPLIT)[:, 0], [[1, 0], [0, 2]])
    assert cascade.logits(SPLIT).shape == (2, 4, 2)


def test_an_entry_counts_what_the_reference_gains_and_loses() -> None:
    correct_N, reference_N = np.array([1, 1, 1, 0, 0], bool), np.array([0, 1, 1, 1, 1], bool)
    entry = Entry(
        name="small",
        kind=LABELS,
        parameters=10,
        multiply_adds=20.0,
        milliseconds={1: 0.5},
        correct=3,
        gained=0,
        lost=0,
    )
    after = compared(entry, correct_N, reference_N)
    assert (after.correct, after.gained, after.lost) == (3, 2, 1)


def test_a_lone_batch_runs_each_stage_with_the_rows_that_reach_it() -> None:
    times = {1: (1.0, 10.0), 2: (1.5, 16.0)}
    exit_N = np.array([0, 0, 0, 1, 1, 1])
    # Batches of 2: no row, one row and two rows reach stage 1.
    assert lone_milliseconds(exit_N, times, 2) == (3 * 1.5 + 10.0 + 16.0) / 3
    assert lone_milliseconds(exit_N, times, 1) == (6 * 1.0 + 3 * 10.0) / 6


def test_the_published_counts_agree_with_the_accuracies() -> None:
    frontier = PUBLICATION.read()
    (balanced,) = [entry for entry in frontier.entries if (entry.kind, entry.name) == (EXITS, "balanced")]
    assert (balanced.gained, balanced.lost) == (0, 0)
    for entry in frontier.entries:
        assert balanced.correct - entry.correct == entry.gained - entry.lost


def test_each_network_is_published_from_labels_and_taught_with_the_epochs_of_the_backbone() -> None:
    frontier = PUBLICATION.read()
    names = set(tomllib.loads(NETWORKS.read_text())["networks"])
    for kind, expected in ((LABELS, names | {BACKBONE}), (TAUGHT, names)):
        assert {entry.name for entry in frontier.entries if entry.kind == kind} == expected
    assert frontier.epochs == without_exits(load_recipe("fashion-mnist")).schedule.epochs == 90
