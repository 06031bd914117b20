from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.attach.heads.features import CachedFeatures
from training.attach.heads.training import Scale, load_or_train_head, train_head
from training.attach.heads.weights import HeadWeights
from training.attach.settings import HeadTraining
from training.errors import AttachError

ROWS, FEATURES, CLASSES = 1500, 6, 3
QUICK = HeadTraining(hidden=16, epochs=10)
Array = NDArray[Any]


def softmax(logits_NK: Array) -> Array:
    exponentials_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    probabilities_NK: Array = exponentials_NK / exponentials_NK.sum(axis=1, keepdims=True)
    return probabilities_NK


def features(rows: int = ROWS, seed: int = 0) -> Array:
    """Sample features with different means and scales."""
    standard_NP = np.random.default_rng(seed).normal(size=(rows, FEATURES))
    scaled_NP: Array = standard_NP * [0.01, 1, 5, 100, 1, 1] + [0, 3, -50, 1000, 0, 0]
    return scaled_NP.astype(np.float32)


def network(features_NP: Array) -> Array:
    """Compute logits that no linear layer can fit: each class fills opposite quadrants of two features."""
    first_N, second_N = features_NP[:, 1] - 3, features_NP[:, 4]
    logits_NK = np.stack([3 * first_N * second_N, np.zeros(len(first_N)), features_NP[:, 5] - 1], axis=1)
    return logits_NK.astype(np.float32)


def agreement(head: HeadWeights, seed: int = 9) -> float:
    fresh_NP = features(4000, seed)
    agrees_N: Array = head.logits(fresh_NP).argmax(axis=1) == network(fresh_NP).argmax(axis=1)
    return float(agrees_N.mean())


def cached(rows: int = 400) -> CachedFeatures:
    features_NP = features(rows)
    return CachedFeatures(
        "key of the cache", (features_NP, features_NP[:, ::-1].copy()), network(features_NP)
    )


def test_a_head_agrees_with_the_network_on_unseen_rows() -> None:
    head = train_head(features(), network(features()), HeadTraining(), seed=0)

    assert (head.inputs, head.classes, len(head.layers)) == (FEATURES, CLASSES, 2)
    assert agreement(head) > 0.93


def test_a_linear_head_has_one_layer_and_cannot_separate_quadrants() -> None:
    head = train_head(features(), network(features()), HeadTraining(kind="linear"), seed=0)

    assert len(head.layers) == 1
    assert agreement(head) < 0.8


def test_a_head_learns_the_networks_probabilities() -> None:
    features_NP = features()
    doubt_NK = np.stack([0.4 * features_NP[:, 4], np.zeros(ROWS), np.full(ROWS, -1.0)], axis=1)
    head = train_head(features_NP, doubt_NK.astype(np.float32), HeadTraining(kind="linear"), seed=0)

    gap_NK = np.abs(softmax(head.logits(features_NP)) - softmax(doubt_NK))
    assert gap_NK.max() < 0.05


def test_more_training_rows_give_a_better_agreement() -> None:
    few, many = (
        train_head(features(rows), network(features(rows)), HeadTraining(), seed=0) for rows in (60, ROWS)
    )
    assert agreement(few) < agreement(many)


def test_a_head_trained_on_few_rows_takes_enough_steps() -> None:
    few_NP = features(120)
    head = train_head(few_NP, network(few_NP), HeadTraining(hidden=128), seed=0)

    agrees_N: Array = head.logits(few_NP).argmax(axis=1) == network(few_NP).argmax(axis=1)
    assert agrees_N.mean() > 0.97


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = (train_head(features(), network(features()), QUICK, seed) for seed in (1, 1, 2))

    for (weight, bias), (weight_again, bias_again) in zip(first.layers, again.layers, strict=True):
        np.testing.assert_array_equal(weight, weight_again)
        np.testing.assert_array_equal(bias, bias_again)
    assert not np.array_equal(first.layers[0][0], other.layers[0][0])


def test_training_restores_the_state_of_torch() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train_head(features(), network(features()), QUICK, seed=0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_epochs() -> None:
    epochs_done: list[int] = []
    train_head(features(), network(features()), QUICK, 0, epochs_done.append)
    assert epochs_done == [1] * QUICK.epochs


def test_a_folded_layer_equals_the_layer_on_standardised_features() -> None:
    features_NP = features()
    scale = Scale.of(features_NP)
    generator = np.random.default_rng(0)
    weight, bias = (generator.normal(size=size).astype(np.float32) for size in ((4, FEATURES), 4))

    folded_weight, folded_bias = scale.fold((weight, bias))

    expected_NH = scale.apply(features_NP).astype(np.float64) @ weight.T + bias
    np.testing.assert_allclose(features_NP @ folded_weight.T + folded_bias, expected_NH, atol=2e-4)


def test_standardised_features_have_mean_0_and_deviation_1() -> None:
    standard_NP = Scale.of(features()).apply(features())
    np.testing.assert_allclose(standard_NP.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(standard_NP.std(axis=0), 1, atol=1e-4)


def test_almost_constant_features_do_not_break_training() -> None:
    features_NP = features()
    features_NP[:, 0] = 0
    features_NP[:, 2] = 7
    features_NP[:, 3] = np.float32(1000) + np.random.default_rng(0).normal(0, 1e-4, ROWS)
    head = train_head(features_NP, network(features_NP), HeadTraining(), seed=0)

    fresh_NP = features(4000, 9)
    fresh_NP[:, 0], fresh_NP[:, 2], fresh_NP[:, 3] = 0, 7, 1000.5
    agrees_N: Array = head.logits(fresh_NP).argmax(axis=1) == network(fresh_NP).argmax(axis=1)
    assert np.isfinite(head.layers[0][0]).all()
    assert agrees_N.mean() > 0.9


def test_a_nan_loss_raises_an_attach_error(tmp_path: Path) -> None:
    settings = HeadTraining(learning_rate=1e30)
    with pytest.raises(AttachError, match=r"head of level 1: expected a finite loss, got nan at .* 1e\+30"):
        load_or_train_head(tmp_path, cached(), 1, np.arange(300), settings, 0)
    assert not list(tmp_path.iterdir())


def test_a_head_is_trained_on_its_level_and_rows(tmp_path: Path) -> None:
    row_N = np.arange(0, 400, 2)
    head = load_or_train_head(tmp_path / "heads", cached(), 1, row_N, QUICK, seed=3)

    expected = train_head(cached().levels[1][row_N], cached().logits_NK[row_N], QUICK, 3)
    assert_equal(head, expected)


def assert_equal(one: HeadWeights, other: HeadWeights) -> None:
    for first, second in zip(one.layers, other.layers, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])


def is_trained(folder: Path, **changes: Any) -> bool:  # noqa: ANN401
    """Check whether a head was trained: training advances epoch by epoch, loading all at once."""
    epochs_done: list[int] = []
    defaults: dict[str, Any] = {
        "cached": cached(),
        "level": 0,
        "row_N": np.arange(300),
        "settings": QUICK,
        "seed": 0,
    }
    load_or_train_head(folder, **{**defaults, **changes}, progress=epochs_done.append)
    assert sum(epochs_done) == QUICK.epochs
    return len(epochs_done) > 1


def test_a_written_head_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    first = load_or_train_head(tmp_path, cached(), 0, np.arange(300), QUICK, seed=0)
    assert not is_trained(tmp_path)
    assert_equal(load_or_train_head(tmp_path, cached(), 0, np.arange(300), QUICK, seed=0), first)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"row_N": np.arange(299)},
        {"settings": QUICK.model_copy(update={"hidden": 8})},
        {"cached": CachedFeatures("another key", cached().levels, cached().logits_NK)},
    ],
    ids=["seed", "rows", "settings", "features"],
)
def test_a_head_is_trained_again_if_an_input_changes(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert is_trained(tmp_path)
    assert is_trained(tmp_path, **changes)


def test_each_level_has_its_own_head(tmp_path: Path) -> None:
    assert is_trained(tmp_path, level=0)
    assert is_trained(tmp_path, level=1)
    assert not is_trained(tmp_path, level=0)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_head_is_trained_again(tmp_path: Path, content: bytes | None) -> None:
    assert is_trained(tmp_path)
    path = tmp_path / "head_0.npz"
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    assert is_trained(tmp_path)
    assert not is_trained(tmp_path)
