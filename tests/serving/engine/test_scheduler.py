import math

import pytest

from serving.engine.admission import Admission
from serving.errors import DeadlineExpired, InvalidRequest, ModelNotReady, Overloaded

BOUNDS = Admission(max_batch_size=4, max_queue_size=10)


def check(
    rows: int, rows_held: int = 0, deadline: float = math.inf, now: float = 0.0, *, ready: bool = True
) -> None:
    BOUNDS.check(rows, rows_held=rows_held, deadline_seconds=deadline, now=now, ready=ready)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_request_within_its_bounds_enters(rows: int) -> None:
    check(rows)


@pytest.mark.parametrize("rows", [0, 5])
def test_a_request_of_too_few_or_too_many_rows_is_invalid(rows: int) -> None:
    with pytest.raises(InvalidRequest, match=f"^batch: expected 1 to 4 rows, got {rows}$"):
        check(rows)


def test_a_request_that_fills_the_queue_exactly_enters() -> None:
    check(4, rows_held=6)


def test_a_request_that_fits_only_in_part_is_overload() -> None:
    with pytest.raises(Overloaded, match=r"room for 4 rows, got 3 free of max_queue_size 10$"):
        check(4, rows_held=7)


@pytest.mark.parametrize("deadline", [1.0, 0.5, -math.inf])
def test_a_deadline_that_has_passed_is_refused(deadline: float) -> None:
    with pytest.raises(DeadlineExpired):
        check(1, deadline=deadline, now=1.0)


def test_a_model_that_drains_takes_nothing_however_wrong_the_request() -> None:
    with pytest.raises(ModelNotReady):
        check(0, ready=False)
