import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.slots import SlotAllocator

SLOTS = 12


def test_neighbouring_slots_are_handed_out_first_fit() -> None:
    allocator = SlotAllocator(SLOTS)

    assert [allocator.take(5), allocator.take(3)] == [range(5), range(5, 8)]


def test_where_no_run_is_long_enough_the_longest_is_handed_out() -> None:
    allocator = SlotAllocator(SLOTS)
    allocator.take(SLOTS)
    allocator.release(np.array([1, 4, 5, 9]))

    assert allocator.take(3) == range(4, 6)
    assert allocator.held == SLOTS - 2


def test_where_all_slots_are_held_none_is_handed_out() -> None:
    allocator = SlotAllocator(SLOTS)
    allocator.take(SLOTS)

    assert not allocator.take(1)
    assert allocator.held == SLOTS


def test_a_gap_that_was_given_back_is_used_again() -> None:
    allocator = SlotAllocator(SLOTS)
    allocator.take(SLOTS)
    allocator.release(np.array([7, 5, 6]))

    assert allocator.take(3) == range(5, 8)


def test_giving_a_slot_back_twice_is_our_own_bug() -> None:
    allocator = SlotAllocator(SLOTS)
    allocator.take(2)
    allocator.release(np.array([1]))

    with pytest.raises(AssertionError, match="slot 1 was released twice"):
        allocator.release(np.array([1]))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, SLOTS)), max_size=40))
def test_no_slot_ever_has_two_holders(steps: list[tuple[bool, int]]) -> None:
    allocator = SlotAllocator(SLOTS)
    held: set[int] = set()
    for takes, size in steps:
        if takes:
            taken = set(allocator.take(size))
            assert not taken & held
            assert taken <= set(range(SLOTS))
            held |= taken
        else:
            given_back = sorted(held)[:size]
            allocator.release(np.array(given_back, dtype=np.int64))
            held -= set(given_back)
        assert allocator.held == len(held)


@given(st.sets(st.integers(0, SLOTS - 1)), st.integers(1, SLOTS))
def test_a_run_is_shortened_only_where_none_is_long_enough(kept: set[int], size: int) -> None:
    allocator = SlotAllocator(SLOTS)
    allocator.take(SLOTS)
    allocator.release(np.array(sorted(set(range(SLOTS)) - kept), dtype=np.int64))

    fits = [start for start in range(SLOTS - size + 1) if not kept & set(range(start, start + size))]

    taken = allocator.take(size)
    assert taken == range(fits[0], fits[0] + size) if fits else len(taken) < size
