"""Figures of a version, computed from the metrics that Prometheus scrapes: page and dashboard agree."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Metric

Labels = Mapping[str, str]


@dataclass
class Histogram:
    """The cumulative counts of a histogram, by upper bound."""

    counts: dict[float, float] = field(default_factory=dict)
    total: float = 0.0
    """Sum of all observations."""

    @property
    def count(self) -> float:
        """Number of observations."""
        return self.counts.get(math.inf, 0.0)

    @property
    def mean(self) -> float | None:
        """Mean of the observations; None without any."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return a quantile, interpolated within its bucket as Prometheus' histogram_quantile does."""
        if not self.count:
            return None
        wanted = share * self.count
        low, below = 0.0, 0.0
        for bound, count in sorted(self.counts.items()):
            if count >= wanted:
                if math.isinf(bound):
                    return low
                return low + (bound - low) * (wanted - below) / (count - below) if count > below else bound
            low, below = bound, count
        return low


class Figures:
    """The samples of one scrape."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._samples: dict[str, list[tuple[Labels, float]]] = {}
        for family in families:
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append((sample.labels, sample.value))

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels."""
        return sum(value for found, value in self._samples.get(name, ()) if labels.items() <= found.items())

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Return sums of a metric's samples with these labels, by the value of another label."""
        sums: dict[str, float] = {}
        for found, value in self._samples.get(name, ()):
            if labels.items() <= found.items():
                sums[found[label]] = sums.get(found[label], 0.0) + value
        return sums

    def histogram(self, name: str, **labels: str) -> Histogram:
        """Return a histogram of the samples with these labels."""
        counts = {float(bound): count for bound, count in self.by(f"{name}_bucket", "le", **labels).items()}
        return Histogram(counts, self.sum(f"{name}_sum", **labels))


def shares(counts: Sequence[float]) -> tuple[float, ...]:
    """Return each count's share of their sum; zeros if all are zero."""
    total = sum(counts)
    return tuple(count / total if total else 0.0 for count in counts)
