import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.monitor.drift import DriftWatch, stability_index

BASELINE = (0.8, 0.15, 0.05)
EDGES = (1, 2)
"""So that a value is the number of its cell."""


def test_equal_shares_are_no_distance() -> None:
    assert stability_index(np.array([80, 15, 5]), np.array(BASELINE)) == pytest.approx(0.0)


def test_the_index_is_the_formula() -> None:
    now, then = np.array([0.3, 0.4, 0.3]), np.array(BASELINE)

    assert stability_index(now * 1000, then) == pytest.approx(((now - then) * np.log(now / then)).sum())


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3).filter(lambda counts: sum(counts) > 0))
def test_the_index_is_finite_and_not_negative_even_where_cells_are_empty(counts: list[int]) -> None:
    index = stability_index(np.array(counts), np.array([0.9, 0.1, 0.0]))

    assert np.isfinite(index)
    assert index >= 0


def test_rows_like_the_baseline_raise_no_alarm_in_a_thousand_windows() -> None:
    generator = np.random.default_rng(0)
    watch = DriftWatch(BASELINE, EDGES, window_rows=1000, alarm=0.25)

    for _ in range(1000):
        assert watch.add(generator.choice(3, 1000, p=BASELINE).tolist())
        assert not watch.alarmed


def test_a_window_of_other_rows_raises_the_alarm_and_the_next_good_one_ends_it() -> None:
    watch = DriftWatch(BASELINE, EDGES, window_rows=100, alarm=0.25)

    watch.add([0] * 30 + [1] * 40 + [2] * 30)
    assert watch.alarmed
    watch.add([0] * 80 + [1] * 15 + [2] * 5)
    assert not watch.alarmed


def test_an_unfinished_window_changes_nothing() -> None:
    watch = DriftWatch(BASELINE, EDGES, window_rows=100, alarm=0.25)

    assert not watch.add([2] * 99)
    assert watch.index == 0.0
    assert watch.add([2])


def test_values_are_sorted_into_cells_by_their_edges() -> None:
    watch, equal = (DriftWatch((0.25, 0.5, 0.25), (0.5, 0.9), window_rows=4, alarm=0.25) for _ in range(2))

    watch.add([0.0, 0.49, 0.5, 0.9])
    equal.add([0.49, 0.5, 0.89, 0.9])

    expected = stability_index(np.array([2, 1, 1]), np.array([0.25, 0.5, 0.25]))
    assert watch.index == pytest.approx(expected)
    assert equal.index == pytest.approx(0.0)


@given(st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=30))
def test_a_window_is_complete_at_its_last_row_for_any_grouping_of_rows(parts: list[list[int]]) -> None:
    watch, waiting = DriftWatch(BASELINE, EDGES, window_rows=20, alarm=0.25), list[int]()
    for part in parts:
        waiting += part
        whole = watch.add(part)
        assert whole is (len(waiting) >= 20)
        if whole:
            counts_C = np.bincount(waiting, minlength=3)
            assert watch.index == pytest.approx(stability_index(counts_C, np.array(BASELINE)))
            waiting.clear()
