"""What sampled rows show about one operating point, in the order of their admission."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from scipy.stats import binom

from serving.metrics import Metrics
from serving.monitor.drift import DriftWatch
from serving.monitor.point_watch import PointWatch
from serving.repository.manifest import Certificate, OperatingPoint


def make_watch(epsilon: float = 0.02) -> PointWatch:
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
    metrics = Metrics(CollectorRegistry()).for_model("scripted", 1, 3)
    exits = DriftWatch(point.exit_shares, (1, 2), window_rows=10**6, alarm=1.0)
    return PointWatch("balanced", point, metrics, max_missing_share=0.2, exits=exits)


def test_what_differs_is_not_bunched_by_answering_early_rows_first() -> None:
    """In bursts early leavers are answered first; a certificate at its very epsilon must stand it."""
    revoked, epsilon, servers = 0, 0.02, 100
    generator = np.random.default_rng(11)
    for _ in range(servers):
        watch = make_watch(epsilon)
        for _ in range(15):
            rows = [watch.add() for _ in range(100)]
            early = generator.random(100) < 0.2
            for row in [each for each, left in zip(rows, early, strict=True) if left]:
                watch.compared(row, agreed=bool(generator.random() >= epsilon / 0.2))
            for row in [each for each, left in zip(rows, early, strict=True) if not left]:
                watch.reached_final_exit(row)
            if watch.broken:
                revoked += 1
                break

    assert revoked <= binom.ppf(0.999, servers, 0.05)


def test_a_row_counts_once_all_rows_before_it_are_settled() -> None:
    watch = make_watch()
    assert watch.test is not None
    first, second, third = (watch.add() for _ in range(3))
    watch.compared(third, agreed=True)
    watch.compared(second, agreed=False)
    assert watch.test.rows == 0

    watch.reached_final_exit(first)

    assert (watch.test.rows, watch.test.disagreements) == (3, 1)
    assert (watch.agreed, watch.differed, watch.missing) == (2, 1, 0)


def test_only_rows_that_left_early_show_whether_too_many_are_missing() -> None:
    watch = make_watch()
    for number in range(200):
        row = watch.add()
        if number % 10:
            watch.reached_final_exit(row)
        else:
            watch.lost(row)

    assert watch.paused
    assert watch.test is not None
    assert watch.test.rows < 10


def test_a_missing_row_is_passed_over_once_its_turn_comes() -> None:
    watch = make_watch()
    assert watch.test is not None
    for _ in range(10):
        watch.compared(watch.add(), agreed=True)
    missing, last = watch.add(), watch.add()
    watch.compared(last, agreed=True)
    assert watch.test.rows == 10

    watch.lost(missing)

    assert (watch.test.rows, watch.missing) == (11, 1)


@pytest.mark.parametrize(("missing", "paused"), [(20, False), (21, True)])
def test_a_test_pauses_above_its_share_of_missing_rows_among_the_last(missing: int, *, paused: bool) -> None:
    watch = make_watch()
    for _ in range(500):
        watch.lost(watch.add())
    for number in range(100):
        row = watch.add()
        if number < missing:
            watch.lost(row)
        else:
            watch.compared(row, agreed=True)

    assert watch.paused is paused


def test_a_closed_watch_counts_nothing_more() -> None:
    watch = make_watch()
    watch.close()
    watch.compared(watch.add(), agreed=False)

    assert watch.test is not None
    assert (watch.test.rows, watch.differed) == (0, 1)
