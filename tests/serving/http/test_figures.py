"""Figures computed from scraped samples."""

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client import Histogram as PrometheusHistogram

from serving.http.figures import Figures, Histogram, shares


def test_counters_are_summed_by_label() -> None:
    registry = CollectorRegistry()
    counter = Counter("rows", "", ("model", "exit"), registry=registry)
    counter.labels("a", "0").inc(3)
    counter.labels("a", "1").inc(4)
    counter.labels("b", "0").inc(5)
    figures = Figures(registry.collect())

    assert figures.sum("rows_total", model="a") == 7
    assert figures.by("rows_total", "exit", model="a") == {"0": 3, "1": 4}
    assert figures.sum("missing_total") == 0


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    registry = CollectorRegistry()
    histogram = PrometheusHistogram("seconds", "", registry=registry, buckets=(1, 2, 4))
    for value in (0.5, 1.5, 1.5, 3.0):
        histogram.observe(value)
    found = Figures(registry.collect()).histogram("seconds")

    assert found.count == 4
    assert found.mean == pytest.approx(6.5 / 4)
    assert found.quantile(0.5) == pytest.approx(1.5)
    assert found.quantile(0.25) == pytest.approx(1.0)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert Histogram({1.0: 0, float("inf"): 5}).quantile(0.5) == 1.0


def test_without_observations_there_is_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram().mean is None


def test_shares_of_nothing_are_zero() -> None:
    assert shares([0, 0]) == (0, 0)
    assert shares([1, 3]) == (0.25, 0.75)
