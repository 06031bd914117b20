"""A Prometheus histogram that counts in bulk: an observation is put aside, and counted when somebody looks.

The client library finds an observation's bucket as it comes, which in a server of small networks costs
as much as deciding an exit. What is exposed is the same.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

MOST_PUT_ASIDE = 65_536
"""Observations of a series that may wait to be counted."""


class BulkHistogram(Collector):
    """A histogram with labels; `labels` gives one series of it."""

    def __init__(self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> None:
        """Take the buckets' upper bounds, ascending; one without a bound follows them."""
        self._name, self._text, self._labels = name, text, labels
        self._bounds = np.array(buckets)
        self._series: dict[tuple[str, ...], Series] = {}

    def labels(self, *values: str) -> "Series":
        """Return the series of these labels' values."""
        return self._series.setdefault(values, Series(self._bounds))

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Remove every series that has these labels."""
        wanted = labels.items()
        for values in list(self._series):
            if wanted <= dict(zip(self._labels, values, strict=True)).items():
                self._series.pop(values, None)

    def describe(self) -> Iterable[Metric]:
        """Name the metric, for the registry."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        """Return all series as they stand."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        bounds = (*self._bounds.tolist(), float("inf"))
        names = [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]
        for values, series in list(self._series.items()):
            counts, total = series.read()
            cumulative = np.cumsum(counts).tolist()
            family.add_metric(values, list(zip(names, cumulative, strict=True)), total)
        yield family


class Series:
    """One series; any thread may observe, and observing takes no lock."""

    def __init__(self, bounds: np.ndarray) -> None:
        self._bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._total = 0.0
        self._aside: list[float] = []
        self._counting = threading.Lock()

    def observe(self, value: float) -> None:
        """Put an observation aside."""
        self._aside.append(value)
        if len(self._aside) >= MOST_PUT_ASIDE:
            self.read()

    def observe_all(self, values: Sequence[float]) -> None:
        """Put observations aside."""
        self._aside.extend(values)
        if len(self._aside) >= MOST_PUT_ASIDE:
            self.read()

    def read(self) -> tuple[np.ndarray, float]:
        """Count what was put aside; give the observations of each bucket, and the sum of all."""
        with self._counting:
            count = len(self._aside)  # others may append meanwhile: those stay for the next time
            values = np.array(self._aside[:count])
            del self._aside[:count]
            self._counts += np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
            self._total += float(values.sum())
            return self._counts.copy(), self._total
