"""A Prometheus histogram that buffers its observations and counts them in bulk, at the latest when scraped.

The client library finds the bucket of each observation at once. For small networks that costs as much as
deciding an exit. The exposed metrics are the same.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from prometheus_client import Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

MAX_BUFFERED = 65_536
"""Number of buffered observations at which a series counts them."""


class BulkHistogram(Collector):
    """A histogram with labels; `labels` returns one of its series."""

    def __init__(self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> None:
        """Set the buckets' upper bounds, ascending; an unbounded bucket is added."""
        self._name, self._text, self._labels = name, text, labels
        self._bounds = np.array(buckets)
        self._series: dict[tuple[str, ...], Series] = {}

    def labels(self, *values: str) -> "Series":
        """Return the series with these label values."""
        return self._series.setdefault(values, Series(self._bounds))

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Remove every series with these labels."""
        for values in list(self._series):
            if labels.items() <= dict(zip(self._labels, values, strict=True)).items():
                self._series.pop(values, None)

    def describe(self) -> Iterable[Metric]:
        """Return the metric without series, for the registry."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        """Return all series with their current counts."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        bounds = (*self._bounds.tolist(), float("inf"))
        names = [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]
        for values, series in list(self._series.items()):
            counts, total = series.read()
            cumulative = np.cumsum(counts).tolist()
            family.add_metric(values, list(zip(names, cumulative, strict=True)), total)
        yield family


class Series:
    """One series of a histogram. Thread-safe; `observe` takes no lock."""

    def __init__(self, bounds: np.ndarray) -> None:
        self._bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._total = 0.0
        self._buffer: list[float] = []
        self._counting = threading.Lock()

    def observe(self, value: float) -> None:
        """Buffer an observation."""
        self._buffer.append(value)
        if len(self._buffer) >= MAX_BUFFERED:
            self.read()

    def observe_all(self, values: Sequence[float]) -> None:
        """Buffer observations."""
        self._buffer.extend(values)
        if len(self._buffer) >= MAX_BUFFERED:
            self.read()

    def read(self) -> tuple[np.ndarray, float]:
        """Count the buffer; return the observations in each bucket and the sum of all values."""
        with self._counting:
            count = len(self._buffer)  # observations appended from now on are counted next time
            values = np.array(self._buffer[:count])
            del self._buffer[:count]
            self._counts += np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
            self._total += float(values.sum())
            return self._counts.copy(), self._total
