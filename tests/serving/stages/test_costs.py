import pytest

from serving.stages.costs import HAND_OVER_SECONDS, MeasuredCosts, StageCosts

CPU_LIKE = {1: 0.010, 2: 0.020, 4: 0.040, 8: 0.080}
GPU_LIKE = {1: 0.010, 2: 0.010, 4: 0.010, 8: 0.011}


def test_between_measured_sizes_costs_are_a_straight_line_and_beyond_them_in_proportion() -> None:
    costs = StageCosts([{1: 1.0, 4: 4.0, 8: 6.0}], 16)

    assert [costs.seconds(0, rows) for rows in (1, 2, 6, 8, 16)] == pytest.approx([1, 2, 5, 6, 12])


def test_where_rows_cost_as_much_together_a_lone_row_is_an_efficient_batch() -> None:
    assert StageCosts([CPU_LIKE], 8).efficient_rows(0) == 1


def test_where_a_batch_costs_what_a_row_does_only_a_full_one_is_efficient() -> None:
    assert StageCosts([GPU_LIKE], 8).efficient_rows(0) == 8


def test_a_row_that_costs_less_than_its_hand_over_is_put_together_with_others() -> None:
    cheap = {rows: rows * HAND_OVER_SECONDS / 10 for rows in (1, 2, 4, 8, 16, 32, 64)}

    assert StageCosts([cheap], 64).efficient_rows(0) == 64


def test_all_cores_are_taken_where_they_save_more_than_waking_them_costs() -> None:
    costs = MeasuredCosts(
        side_by_side=StageCosts([{1: 0.001, 8: 0.008}], 8), alone=StageCosts([{1: 0.0009, 8: 0.004}], 8)
    )

    assert not costs.takes_all_cores(0, 1)
    assert costs.takes_all_cores(0, 8)
    assert costs.lone_seconds([0], 8) == pytest.approx(0.004)
    assert costs.lone_seconds([0, 0], 1) == pytest.approx(0.002)
