"""What is noted of every batch and request: running totals for the protocol, instruments for Prometheus."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from serving.engine.batch_run import BatchRun
from serving.engine.policy import ExitReason, Floats, Integers
from serving.engine.request import RowGroup
from serving.engine.statistics import Statistics
from serving.metrics import ModelMetrics
from serving.repository.manifest import Manifest

_REASON_NAMES = [reason.name.lower() for reason in sorted(ExitReason)]


class Accounts:
    """One version's totals and instruments; any thread may note."""

    def __init__(self, manifest: Manifest, metrics: ModelMetrics) -> None:
        self.statistics = Statistics()
        self.metrics = metrics
        self._multiply_adds = manifest.multiply_adds

    def ran(self, run: BatchRun) -> None:
        """Note a run, and how long its groups had waited for it."""
        batch, started = run.batch, run.times[0]
        for stage, (before, after) in zip(batch.stages, pairwise(run.times), strict=True):
            self.metrics.ran(stage, batch.rows, after - before)
        if batch.is_shadow:
            return
        if batch.stage == 0:
            self.statistics.count_first_stage_run()
        for group in batch.groups:
            waited = started - group.queued_seconds
            self.metrics.waited(batch.stage, waited)
            if batch.stage == 0 and group.rows_G[0] == 0:
                group.request.queue_seconds = waited

    def left(
        self, stage: int, left: Sequence[tuple[RowGroup, slice]], confidence_B: Floats, reason_B: Integers
    ) -> None:
        """Note the rows that were answered after a stage: in these groups, those that have a reason."""
        confidences: list[float] = []
        exits: Counter[tuple[str, int]] = Counter()
        for group, place in left:
            point = group.request.rule.operating_point
            for reason, confidence in zip(
                reason_B[place].tolist(), confidence_B[place].tolist(), strict=True
            ):
                if reason >= 0:
                    exits[point, reason] += 1
                    confidences.append(confidence)
        for (point, reason), rows in exits.items():
            self.metrics.exited(stage, _REASON_NAMES[reason], point, rows)
        self.metrics.left_with(stage, confidences)
        spent, full = self._multiply_adds[stage], self._multiply_adds[-1]
        self.metrics.spent(len(confidences) * spent, len(confidences) * (full - spent))

    def close(self) -> None:
        """Stop reading what is gone."""
        self.metrics.forget()
