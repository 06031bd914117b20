"""The bulk histogram exposes what the client library's own one does."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from serving.metrics import bulk_histogram
from serving.metrics.bulk_histogram import BulkHistogram

BUCKETS = (0.25, 0.5, 1.0)


def both(values: list[float]) -> tuple[list[str], list[str]]:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bulk = BulkHistogram("x_seconds", "Some text", ("stage",), BUCKETS)
    ours.register(bulk)
    single = Histogram("x_seconds", "Some text", ("stage",), buckets=BUCKETS, registry=theirs)
    series, child = bulk.labels("0"), single.labels("0")
    series.observe_all(values[::2])
    for value in values[1::2]:
        series.observe(value)
    for value in values:
        child.observe(value)
    return lines(ours), lines(theirs)


def lines(registry: CollectorRegistry) -> list[str]:
    """Without the sum, whose order of addition differs, and without the times of creation."""
    text = generate_latest(registry).decode().splitlines()
    return [line for line in text if "_sum" not in line and "_created" not in line]


@given(st.lists(st.one_of(st.sampled_from(BUCKETS), st.floats(0, 3)), max_size=40))
def test_it_exposes_what_the_librarys_own_histogram_does(values: list[float]) -> None:
    ours, theirs = both(values)

    assert ours == theirs


def test_the_sum_includes_every_observation() -> None:
    registry = CollectorRegistry()
    bulk = BulkHistogram("x_seconds", "Some text", (), BUCKETS)
    registry.register(bulk)
    bulk.labels().observe_all([0.1, 0.2])
    assert registry.get_sample_value("x_seconds_sum") == pytest.approx(0.3)
    bulk.labels().observe(5.0)

    assert registry.get_sample_value("x_seconds_sum") == pytest.approx(5.3)
    assert registry.get_sample_value("x_seconds_count") == 3


def test_the_buffer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_histogram, "MAX_BUFFERED", 10)
    series = BulkHistogram("x", "Some text", (), BUCKETS).labels()

    for _ in range(25):
        series.observe(0.1)

    assert len(series._buffer) < 10
    assert series.read()[0].tolist() == [25, 0, 0, 0]


def test_no_observation_is_lost_between_threads_that_observe_and_one_that_reads() -> None:
    series = BulkHistogram("x", "Some text", (), BUCKETS).labels()

    def observe() -> None:
        for _ in range(3000):
            series.observe(0.1)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        series.read()
    for thread in threads:
        thread.join()

    assert series.read()[0].sum() == 12_000
