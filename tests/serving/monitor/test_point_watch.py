"""Sampled rows of one operating point are tested in the order of their admission."""

from collections.abc import Callable

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from scipy.stats import binom

from serving.metrics.instruments import Metrics
from serving.monitor.agreement import LONE_CALLER_ROWS, Verdict
from serving.monitor.point_watch import PointWatch, SampledRow
from serving.repository.manifest import Certificate, OperatingPoint


def make_watch(
    epsilon: float = 0.02, on_verdict: Callable[[PointWatch], None] = lambda _: None
) -> PointWatch:
    point = OperatingPoint(
        thresholds=(0.9, 0.9),
        accuracy=0.9,
        disagreement=0.0,
        multiply_adds_share=1.0,
        exit_shares=(0.0, 0.0, 1.0),
        split="test",
        n=10,
        certificate=Certificate(epsilon=epsilon, delta=0.05, n=10, disagreements=0, method="none"),
    )
    metrics = Metrics(CollectorRegistry()).for_model("scripted", 1, 3).monitor
    return PointWatch("balanced", point, metrics, on_verdict=on_verdict, max_missing_share=0.2)


def add(watch: PointWatch, digest: bytes = b"") -> SampledRow:
    """Admit a row, and record its digest as if it had left early."""
    row = watch.add("caller")
    row.digest = digest
    return row


def test_rows_that_are_answered_first_are_not_counted_first() -> None:
    """In bursts early leavers are answered first; a certificate at its very epsilon must stand it."""
    revoked, epsilon, servers, burst, early_share = 0, 0.02, 10, 500, 0.05
    generator = np.random.default_rng(11)
    for _ in range(servers):
        watch = make_watch(epsilon)
        for _ in range(3):
            rows = [add(watch, generator.bytes(16)) for _ in range(burst)]
            early = generator.random(burst) < early_share
            for row in [each for each, left in zip(rows, early, strict=True) if left]:
                watch.compared(row, agreed=bool(generator.random() >= epsilon / early_share))
            for row in [each for each, left in zip(rows, early, strict=True) if not left]:
                watch.reached_final_exit(row)
            if watch.verdict is Verdict.BROKEN:
                revoked += 1
                break

    assert revoked <= binom.ppf(0.999, servers, 0.05)


def test_a_row_counts_once_all_rows_before_it_are_settled() -> None:
    watch = make_watch()
    assert watch.test is not None
    first, second, third = (add(watch) for _ in range(3))
    watch.compared(third, agreed=True)
    watch.compared(second, agreed=False)
    assert watch.test.rows == 0

    watch.reached_final_exit(first)

    assert (watch.test.rows, watch.test.disagreements) == (3, 1)
    assert (watch.agreed, watch.differed, watch.missing) == (2, 1, 0)


def test_only_rows_that_left_early_show_whether_too_many_are_missing() -> None:
    watch = make_watch()
    for number in range(200):
        row = add(watch)
        if number % 10:
            watch.reached_final_exit(row)
        else:
            watch.lost(row)

    assert watch.too_many_missing


def test_a_missing_row_counts_as_agreeing_once_its_turn_comes() -> None:
    watch = make_watch()
    assert watch.test is not None
    for _ in range(10):
        watch.compared(add(watch), agreed=True)
    missing, last = add(watch), add(watch)
    watch.compared(last, agreed=True)
    assert watch.test.rows == 10

    watch.lost(missing)

    assert (watch.test.rows, watch.test.disagreements, watch.missing) == (12, 0, 1)


@pytest.mark.parametrize(("missing", "too_many"), [(20, False), (21, True)])
def test_an_alarm_is_raised_above_a_share_of_missing_rows_among_the_last(
    missing: int, *, too_many: bool
) -> None:
    watch = make_watch()
    for _ in range(500):
        watch.lost(add(watch))
    for number in range(100):
        row = add(watch)
        if number < missing:
            watch.lost(row)
        else:
            watch.compared(row, agreed=True)

    assert watch.too_many_missing is too_many


def test_each_change_of_the_verdict_is_reported_once_whichever_row_settles_it() -> None:
    verdicts: list[Verdict] = []
    watch = make_watch(on_verdict=lambda watch: verdicts.append(watch.verdict))
    first = add(watch)
    for number in range(2 * LONE_CALLER_ROWS):
        watch.compared(add(watch, str(number).encode()), agreed=False)
    assert verdicts == []

    watch.reached_final_exit(first)

    assert verdicts == [Verdict.SUSPECTED, Verdict.BROKEN]


def test_a_test_that_is_broken_counts_nothing_more() -> None:
    watch = make_watch()
    for number in range(LONE_CALLER_ROWS):
        watch.compared(add(watch, str(number).encode()), agreed=False)

    for _ in range(1000):
        watch.compared(add(watch), agreed=True)

    assert watch.test is not None
    assert (watch.verdict, watch.test.rows, watch.agreed) == (Verdict.BROKEN, LONE_CALLER_ROWS, 1000)
