import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.stages.costs import ALL_CORES_SECONDS, MeasuredCosts, StageCosts, batch_sizes

CPU_LIKE = {1: 0.010, 2: 0.020, 4: 0.040, 8: 0.080}
GPU_LIKE = {1: 0.010, 2: 0.010, 4: 0.010, 8: 0.011}


def test_costs_are_a_straight_line_through_the_smallest_and_the_largest_batch_measured() -> None:
    costs = StageCosts([{1: 3.0, 4: 100.0, 8: 10.0}], 16)

    assert [costs.seconds(range(1), rows) for rows in (1, 2, 8, 16)] == pytest.approx([3, 4, 10, 18])


def test_with_one_measured_size_costs_are_proportional_to_rows() -> None:
    costs = StageCosts([{4: 8.0}], 8)

    assert [costs.seconds(range(1), rows) for rows in (1, 4, 8)] == pytest.approx([2, 8, 16])


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.integers(1, 64))
def test_costs_are_not_negative_after_inconsistent_measurements(
    one_row: float, full: float, rows: int
) -> None:
    costs = StageCosts([{1: one_row, 64: full}], 64)

    assert 0 <= costs.seconds(range(1), rows) <= costs.seconds(range(1), rows + 1)


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=5), st.data())
def test_the_cost_of_consecutive_stages_is_their_sum(row_seconds: list[float], data: st.DataObject) -> None:
    costs = StageCosts([{1: seconds, 8: 4 * seconds} for seconds in row_seconds], 8)
    start = data.draw(st.integers(0, len(row_seconds)))
    stages = range(start, data.draw(st.integers(start, len(row_seconds))))
    rows = data.draw(st.integers(1, 8))

    expected = sum(row_seconds[stage] * (1 + 3 * (rows - 1) / 7) for stage in stages)
    assert costs.seconds(stages, rows) == pytest.approx(expected)


def test_row_seconds_are_the_share_of_a_row_in_the_largest_batch() -> None:
    costs = StageCosts([{1: 1.0, 8: 4.0}, {1: 1.0, 8: 8.0}], 8)

    assert costs.row_seconds(range(1)) == pytest.approx(0.5)
    assert costs.row_seconds(range(2)) == pytest.approx(1.5)


@pytest.mark.parametrize(("measured", "pays"), [(CPU_LIKE, False), (GPU_LIKE, True)])
def test_batching_pays_if_a_row_costs_far_less_in_a_full_batch(
    measured: dict[int, float], *, pays: bool
) -> None:
    assert StageCosts([measured, measured], 8).batching_pays is pays


def test_all_cores_pay_if_they_save_more_than_all_cores_seconds() -> None:
    just, enough = 0.001 - 0.9 * ALL_CORES_SECONDS, 0.001 - 1.1 * ALL_CORES_SECONDS
    costs = MeasuredCosts(
        side_by_side=StageCosts([{1: 0.001}] * 2, 1), all_cores=StageCosts([{1: just}, {1: enough}], 1)
    )

    assert not costs.all_cores_pay(range(1), 1, 1)
    assert costs.all_cores_pay(range(1, 2), 1, 1)


def test_all_cores_are_compared_with_a_share_of_the_rows_in_one_thread() -> None:
    costs = MeasuredCosts(
        side_by_side=StageCosts([{1: 0.001, 8: 0.008}], 8), all_cores=StageCosts([{1: 0.001, 8: 0.005}], 8)
    )

    assert costs.all_cores_pay(range(1), 8, 8)
    assert not costs.all_cores_pay(range(1), 8, 4)


@given(st.integers(1, 200))
def test_batch_sizes_are_powers_of_two_and_the_largest(largest: int) -> None:
    sizes = list(batch_sizes(largest))

    assert sizes[-1] == largest
    assert sizes[:-1] == [2**power for power in range(8) if 2**power < largest]
