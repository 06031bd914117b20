import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.monitor.sampling import Sampler


def test_every_row_has_the_same_chance_whatever_the_size_of_its_request() -> None:
    sampler, generator = Sampler(0.1, seed=1), np.random.default_rng(1)
    sampled, rows = 0, 0
    for size in generator.integers(1, 65, 20_000).tolist():
        picked = sampler.sample(size)
        assert picked == sorted(set(picked))
        assert all(0 <= row < size for row in picked)
        sampled, rows = sampled + len(picked), rows + size

    assert sampled / rows == pytest.approx(0.1, rel=0.02)


def test_first_rows_are_sampled_no_more_often_than_last_ones() -> None:
    sampler = Sampler(0.05, seed=2)
    counts = np.bincount([row for _ in range(40_000) for row in sampler.sample(8)], minlength=8)

    assert counts.min() > 0.9 * counts.mean()


@given(st.lists(st.integers(1, 64), max_size=20))
def test_a_share_of_none_samples_none_and_one_of_all_samples_all(sizes: list[int]) -> None:
    none, every = Sampler(0.0), Sampler(1.0)

    assert [none.sample(size) for size in sizes] == [[] for _ in sizes]
    assert [every.sample(size) for size in sizes] == [list(range(size)) for size in sizes]


def test_a_seed_makes_the_choice_repeatable() -> None:
    first, again = Sampler(0.3, seed=5), Sampler(0.3, seed=5)

    assert [first.sample(8) for _ in range(50)] == [again.sample(8) for _ in range(50)]
