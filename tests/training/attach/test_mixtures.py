"""Mixtures of head rows, which only train heads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.repository.manifest import TensorSpec
from training.attach.mixtures import MixedRows
from training.attach.rows import Rows, read_rows


def rows_of(folder: Path, array: NDArray[Any], datatype: str) -> Rows:
    np.savez(folder / "rows.npz", allow_pickle=False, x=array)
    spec = TensorSpec(name="image", datatype=datatype, shape=(-1, *array.shape[1:]))  # type: ignore[arg-type]
    return read_rows(folder / "rows.npz", [spec])


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    array = np.random.default_rng(0).integers(0, 256, (50, 1, 3, 3)).astype(np.uint8)
    return rows_of(tmp_path, array, "UINT8")


HEADS = np.arange(10, 30)


def test_mixtures_follow_the_rows_until_there_are_as_many_as_wanted(rows: Rows) -> None:
    mixed = MixedRows.up_to(rows, HEADS, 60, seed=1)

    assert (len(mixed), mixed.mixtures) == (90, 40)
    assert mixed.training_N.tolist() == [*range(10, 30), *range(50, 90)]
    assert np.array_equal(mixed.batch(0, 50)["image"], rows.inputs["image"])


def test_of_a_few_rows_no_more_than_four_mixtures_each_are_made(rows: Rows) -> None:
    assert MixedRows.up_to(rows, HEADS, 20_000, seed=1).mixtures == 80


def test_a_mixture_lies_between_two_head_rows_nearer_to_the_first(rows: Rows) -> None:
    mixed, image = MixedRows.up_to(rows, HEADS, 60, seed=1), rows.inputs["image"].astype(float)

    for place, mixture in enumerate(mixed.batch(50, 90)["image"].astype(float)):
        first = image[HEADS[place % len(HEADS)]]
        between = [
            np.all(
                (mixture >= np.minimum(first, second) - 0.5) & (mixture <= np.maximum(first, second) + 0.5)
            )
            and np.all(abs(mixture - first) <= abs(second - first) / 2 + 0.5)
            for second in image[HEADS]
        ]
        assert any(between)


def test_batches_give_the_same_rows_wherever_they_begin(rows: Rows) -> None:
    mixed = MixedRows.up_to(rows, HEADS, 60, seed=1)
    whole = mixed.batch(0, 90)["image"]

    assert whole.dtype == np.uint8
    for start, stop in ((45, 60), (49, 51), (50, 55), (88, 90)):
        assert np.array_equal(mixed.batch(start, stop)["image"], whole[start:stop])


def test_other_seeds_and_other_head_rows_are_other_rows(rows: Rows) -> None:
    digests = {
        MixedRows.up_to(rows, heads, wanted, seed).inputs_digest
        for heads, wanted, seed in ((HEADS, 60, 1), (HEADS, 60, 2), (HEADS, 61, 1), (HEADS + 1, 60, 1))
    }

    assert len(digests) == 4


def test_floats_are_mixed_without_rounding(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), "FP32")

    mixture = MixedRows.up_to(rows, np.arange(30), 60, seed=0).batch(30, 60)["image"]

    assert mixture.dtype == np.float32
    assert not np.array_equal(np.rint(mixture), mixture)


def test_token_ids_are_not_mixed(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, np.arange(120).reshape(30, 4), "INT64")

    mixed = MixedRows.up_to(rows, np.arange(30), 60, seed=0)

    assert (mixed.mixtures, mixed.training_N.tolist()) == (0, list(range(30)))
