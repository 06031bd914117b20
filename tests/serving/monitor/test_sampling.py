import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.stages.costs import StageCosts
from serving.engine.request import Answers
from serving.monitor.sampling import (
    GATHERED_ROWS,
    GATHERED_SECONDS,
    MAX_WAITING,
    Draws,
    ShadowRow,
    Shadows,
    copy_of,
    rows_a_run,
)


def test_every_row_has_the_same_chance_whatever_the_size_of_its_request() -> None:
    draws, generator = Draws(0.1, seed=1), np.random.default_rng(1)
    drawn, rows = 0, 0
    for size in generator.integers(1, 65, 20_000).tolist():
        picked = draws.among(size)
        assert picked == sorted(set(picked))
        assert all(0 <= row < size for row in picked)
        drawn, rows = drawn + len(picked), rows + size

    assert drawn / rows == pytest.approx(0.1, rel=0.02)


def test_first_rows_are_drawn_no_more_often_than_last_ones() -> None:
    draws = Draws(0.05, seed=2)
    counts = np.bincount([row for _ in range(40_000) for row in draws.among(8)], minlength=8)

    assert counts.min() > 0.9 * counts.mean()


@given(st.lists(st.integers(1, 64), max_size=20))
def test_a_share_of_none_draws_none_and_one_of_all_draws_all(sizes: list[int]) -> None:
    none, every = Draws(0.0), Draws(1.0)

    assert [none.among(size) for size in sizes] == [[] for _ in sizes]
    assert [every.among(size) for size in sizes] == [list(range(size)) for size in sizes]


class Told:
    """What became of shadow rows, by their labels."""

    def __init__(self) -> None:
        self.learnt: list[tuple[int, bool]] = []
        self.lost: list[int] = []

    def row(self, label: int, answered_seconds: float = 0.0) -> ShadowRow:
        pixels = np.full((1, 2), label, dtype=np.uint8)
        return ShadowRow(
            {"image": pixels},
            label,
            answered_seconds,
            lambda agreed: self.learnt.append((label, agreed)),
            lambda: self.lost.append(label),
        )


@pytest.fixture
def told() -> Told:
    return Told()


def answer_of(label: int) -> Answers:
    answers = Answers.empty(1, classes=3)
    answers.label_R[:] = label
    return answers


def test_rows_wait_until_enough_have_come_or_the_first_has_waited_long(told: Told) -> None:
    shadows = Shadows(rows_a_run=32)
    for number in range(GATHERED_ROWS - 1):
        shadows.add(told.row(number, answered_seconds=100.0))
    assert not shadows.due(now=100.0)
    assert shadows.due(now=100.0 + GATHERED_SECONDS)

    shadows.add(told.row(7, answered_seconds=100.0))
    assert shadows.due(now=100.0)


def test_one_run_at_a_time_takes_the_oldest_rows(told: Told) -> None:
    shadows = Shadows(rows_a_run=2)
    for number in range(3):
        shadows.add(told.row(number))

    first, second = shadows.begin()
    assert (first.label, second.label) == (0, 1)
    assert not shadows.due(now=1e9)
    shadows.end(second, answer_of(2))
    shadows.end(first, answer_of(0))
    assert told.learnt == [(1, False), (0, True)]
    assert [row.label for row in shadows.begin()] == [2]


def test_a_row_that_failed_is_lost_and_spoils_no_other(told: Told) -> None:
    shadows = Shadows(rows_a_run=2)
    shadows.add(told.row(5))
    shadows.add(told.row(1))
    first, second = shadows.begin()

    shadows.end(first, RuntimeError())
    shadows.end(second, answer_of(1))

    assert (told.learnt, told.lost) == ([(1, True)], [5])


def test_rows_that_waited_too_long_are_given_up(told: Told) -> None:
    shadows = Shadows(rows_a_run=2)
    shadows.add(told.row(0, answered_seconds=10.0))
    shadows.add(told.row(1, answered_seconds=20.0))

    shadows.give_up_before(20.0)

    assert told.lost == [0]


def test_one_row_too_many_loses_the_oldest(told: Told) -> None:
    shadows = Shadows(rows_a_run=2)
    for number in range(MAX_WAITING + 2):
        shadows.add(told.row(number))

    assert told.lost == [0, 1]


def test_a_run_keeps_a_worker_for_milliseconds_not_more() -> None:
    slow, quick = StageCosts([{1: 0.1, 64: 6.4}], 64), StageCosts([{1: 1e-6, 64: 64e-6}], 64)

    assert (rows_a_run(slow, 1), rows_a_run(quick, 1)) == (1, 64)


def test_a_copied_row_keeps_nothing_of_its_request() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(3, 2)
    copied = copy_of({"image": image}, 1)["image"]
    image[:] = 0

    assert copied.tolist() == [[2, 3]]
    assert copied.base is None
