"""The drift alarms of one version: its traffic compared with its manifest.

Watches the exits of each operating point, and the confidences of all rows at exit 0.
"""

from collections.abc import Iterable, Sequence

import structlog

from serving.metrics.model_metrics import DriftSignal, MonitorMetrics
from serving.monitor.drift import DriftWatch
from serving.repository.manifest import Manifest

_LOG = structlog.get_logger(__name__)


class DriftAlarms:
    """The drift watches of one version. Not thread-safe."""

    def __init__(
        self,
        manifest: Manifest,
        points: Iterable[str],
        metrics: MonitorMetrics,
        *,
        window_rows: int,
        alarm: float,
    ) -> None:
        """Start empty windows. points: those whose exits are watched."""
        self._manifest = manifest
        self._metrics = metrics
        self._window_rows, self._alarm = window_rows, alarm
        self._alarmed: set[tuple[DriftSignal, str]] = set()
        """Signals with a raised alarm, each with its operating point (empty for confidences)."""
        self._exits = {point: self._new_exits(point) for point in points}
        histogram = manifest.exits[0].confidence
        self._confidences: DriftWatch | None = None
        """None if the manifest has no baseline of confidences."""
        if histogram is not None:
            self._confidences = self._new_watch(histogram.shares, histogram.edges)

    def add_exits(self, point: str, exits: Iterable[int]) -> None:
        """Add the exits of answered rows."""
        if self._exits[point].add(exits):
            self._show(self._exits[point], DriftSignal.EXITS, point)

    def add_confidences(self, confidences: Iterable[float]) -> None:
        """Add the confidences of rows at exit 0."""
        if self._confidences is not None and self._confidences.add(confidences):
            self._show(self._confidences, DriftSignal.CONFIDENCE, "")

    def restart(self, point: str) -> None:
        """Start a new window of a point's exits, after its thresholds changed."""
        self._exits[point] = self._new_exits(point)

    def _new_exits(self, point: str) -> DriftWatch:
        shares = self._manifest.operating_points[point].exit_shares
        return self._new_watch(shares, range(1, len(shares)))

    def _new_watch(self, shares: Sequence[float], edges: Sequence[float]) -> DriftWatch:
        return DriftWatch(shares, edges, window_rows=self._window_rows, alarm=self._alarm)

    def _show(self, watch: DriftWatch, signal: DriftSignal, point: str) -> None:
        """Update the metrics after a complete window; log if the alarm changed."""
        self._metrics.drift(signal, point, watch.index, alarmed=watch.alarmed)
        if watch.alarmed != ((signal, point) in self._alarmed):
            self._alarmed ^= {(signal, point)}
            _LOG.warning(
                "drift" if watch.alarmed else "drift is over",
                model=self._manifest.name,
                version=self._manifest.version,
                signal=signal.value,
                operating_point=point,
                stability_index=round(watch.index, 3),
            )
