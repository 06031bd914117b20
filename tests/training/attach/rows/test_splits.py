from pathlib import Path

import numpy as np
import pytest

from serving.repository.manifest import TensorSpec
from training.attach.rows.rows import Rows, read_rows
from training.attach.rows.splits import MOST_HEAD_ROWS, SPLITS, choose_sizes, split_rows
from training.errors import DatasetError
from training.exits.certify import fewest_rows

NUMBER = TensorSpec(name="number", datatype="INT64", shape=(-1, 1))
FEWEST_AT_001 = 300 + 50 + 154 + 299 + 50


def rows_of(folder: Path, count: int, *, repeats: int = 0) -> Rows:
    """Write and read different rows, followed by repeats of the first ones."""
    numbers = np.append(np.arange(count), np.arange(repeats))[:, None]
    np.savez(folder / "rows.npz", number=numbers)
    return read_rows(folder / "rows.npz", [NUMBER])


def test_splits_are_disjoint_and_use_every_row(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 5000)
    splits = split_rows(rows, choose_sizes(rows, epsilon=0.01, delta=0.05), seed=0)

    together = np.concatenate(list(splits.rows_of_split.values()))
    assert sorted(together.tolist()) == list(range(5000))
    assert all((np.diff(row_N) > 0).all() for row_N in splits.rows_of_split.values())


def test_a_repeated_row_is_in_one_split_once(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 2000, repeats=700)
    splits = split_rows(rows, choose_sizes(rows, epsilon=0.01, delta=0.05), seed=0)

    together = np.concatenate(list(splits.rows_of_split.values()))
    assert sorted(together.tolist()) == list(range(2000))
    assert splits.repeats == 700
    assert "unused             700 rows  equal an earlier row" in splits.table(0.01, 0.05)


def test_the_seed_determines_the_splits_and_their_digests(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 2000)
    sizes = choose_sizes(rows, epsilon=0.01, delta=0.05)
    first, again, other = (split_rows(rows, sizes, seed).digests for seed in (1, 1, 2))

    assert first == again
    assert not set(first.values()) & set(other.values())
    assert list(first) == list(SPLITS)


@pytest.mark.parametrize("count", [FEWEST_AT_001, 1_000, 10_000, 30_000, 60_000])
def test_sizes_use_every_row_and_reach_their_minimum(tmp_path: Path, count: int) -> None:
    sizes = choose_sizes(rows_of(tmp_path, count), epsilon=0.01, delta=0.05)

    assert sizes.total == count
    assert sizes.certify >= fewest_rows(0.01, 0.05)
    assert sizes.tune * 0.65 * 0.01 >= 1
    assert 300 <= sizes.heads <= MOST_HEAD_ROWS
    assert min(sizes.temperature, sizes.test) >= 50


def test_a_larger_epsilon_needs_fewer_certify_rows(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 10_000)
    strict, lax = (choose_sizes(rows, epsilon=epsilon, delta=0.05) for epsilon in (0.01, 0.05))

    assert strict.certify > lax.certify
    assert strict.heads < lax.heads


@pytest.mark.parametrize(("epsilon", "delta"), [(0.001, 1e-30), (0.5, 0.5), (0.9, 0.001)])
def test_sizes_are_valid_for_unusual_certificates(tmp_path: Path, epsilon: float, delta: float) -> None:
    count = 90_000 if epsilon < 0.01 else 500
    sizes = choose_sizes(rows_of(tmp_path, count), epsilon=epsilon, delta=delta)

    assert sizes.total == count
    assert sizes.certify >= fewest_rows(epsilon, delta)
    assert sizes.heads >= 300


def test_too_few_rows_are_refused_with_the_number_needed_and_a_possible_epsilon(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, FEWEST_AT_001 - 1, repeats=5)
    with pytest.raises(
        DatasetError,
        match=r"rows.npz: expected at least 853 different rows for epsilon 0.01 at delta 0.05 \(heads 300, "
        r"temperature 50, tune 154, certify 299, test 50\), got 852, enough for epsilon 0.02$",
    ):
        choose_sizes(rows, epsilon=0.01, delta=0.05)


def test_the_suggested_epsilon_works(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 600)
    with pytest.raises(DatasetError, match=r"got 600, enough for epsilon 0.03$"):
        choose_sizes(rows, epsilon=0.01, delta=0.05)
    choose_sizes(rows, epsilon=0.03, delta=0.05)
    with pytest.raises(DatasetError):
        choose_sizes(rows, epsilon=0.02, delta=0.05)


def test_without_a_possible_epsilon_there_is_no_suggestion(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"got 20$"):
        choose_sizes(rows_of(tmp_path, 20), epsilon=0.01, delta=0.05)


def test_given_sizes_are_kept_and_other_splits_share_the_rest(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 5000)
    sizes = choose_sizes(rows, epsilon=0.01, delta=0.05, given={"heads": 3000, "certify": 1000})
    assert (sizes.heads, sizes.certify, sizes.total) == (3000, 1000, 5000)

    all_given = dict.fromkeys(SPLITS, 400)
    splits = split_rows(rows, choose_sizes(rows, epsilon=0.01, delta=0.05, given=all_given), seed=0)
    assert [len(row_N) for row_N in splits.rows_of_split.values()] == [400] * 5
    assert splits.unused == 3000
    assert "unused           3,000 rows  not requested" in splits.table(0.01, 0.05)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            {"certify": 298},
            r"certify split: expected at least 299 rows for epsilon 0.01 at delta 0.05, got 298",
        ),
        ({"test": 0}, r"test split: expected at least 1 row, got 0"),
        ({"heads": 4900}, r"expected at least 5,453 different rows .*\(heads 4,900, .*\), got 5,000"),
        (dict.fromkeys(SPLITS, 1001), r"expected at least 5,005 different rows .*, got 5,000$"),
    ],
)
def test_invalid_given_sizes_are_refused(tmp_path: Path, given: dict[str, int], complaint: str) -> None:
    with pytest.raises(DatasetError, match=complaint):
        choose_sizes(rows_of(tmp_path, 5000), epsilon=0.01, delta=0.05, given=given)


def test_the_table_shows_the_disagreements_that_the_certify_split_allows(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 10_000)
    given = {"certify": 5000, "tune": 1000}
    table = split_rows(rows, choose_sizes(rows, epsilon=0.01, delta=0.05, given=given), 0).table(0.01, 0.05)

    assert (
        "certify          5,000 rows  certify epsilon 0.01 at delta 0.05, at most 38 disagreements" in table
    )
    assert "1,000 rows  choose exits and thresholds, at most 6 disagreements" in table
    assert len(table.splitlines()) == 5
