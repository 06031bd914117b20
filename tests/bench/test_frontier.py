"""The comparison with networks without exits: the cascade, and the published counts."""

import tomllib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.frontier import LABELS, NETWORKS, POINT, PUBLICATION, TAUGHT, Cascade, Measured, backbone_epochs
from training.data.splits import Split
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
    entry = Measured("small", LABELS, 10, 20.0, {1: 0.5}, correct_N).entry(reference_N)
    assert (entry.correct, entry.gained, entry.lost) == (3, 2, 1)


def test_the_published_counts_agree_with_the_accuracies() -> None:
    frontier = PUBLICATION.read()
    (balanced,) = [each for each in frontier.entries if (each.kind, each.name) == (POINT, "`balanced`")]
    assert (balanced.gained, balanced.lost) == (0, 0)
    for entry in frontier.entries:
        assert balanced.correct - entry.correct == entry.gained - entry.lost


def test_each_network_is_published_from_labels_and_taught_with_the_epochs_of_the_backbone() -> None:
    frontier = PUBLICATION.read()
    names = set(tomllib.loads(NETWORKS.read_text())["networks"])
    for kind in (LABELS, TAUGHT):
        assert {entry.name for entry in frontier.entries if entry.kind == kind} == names
    assert frontier.epochs == backbone_epochs(load_recipe("fashion-mnist"))
