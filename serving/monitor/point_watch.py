"""What sampled rows show about one operating point: agreement with the final exit, in order of admission.

A row takes its place when it is admitted, before anything is known of it, and counts once all rows
before it are settled: by its full-depth answer; as agreeing where it reached the final exit; or as
missing where its request ended without an answer or its full-depth run failed. A missing row counts as
agreeing, which can only prevent a revocation. Only a row that may have left early can be missing, so
missing rows hide disagreement: above a bounded share of them the test notices little, and says so.
"""

from collections import deque
from collections.abc import Callable

from serving.metrics import ModelMetrics
from serving.monitor.agreement import AgreementTest, Verdict
from serving.monitor.drift import DriftWatch
from serving.repository.manifest import OperatingPoint

RECENT_ROWS = 100
"""The share of missing rows is taken over so many of the last rows that left early."""


class SampledRow:
    """A sampled row, in its place among the others of its point."""

    __slots__ = ("agreed", "caller", "digest", "left_early", "settled")

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.digest = b""
        """Of its input's bytes, where it left early."""
        self.settled = False
        self.agreed: bool | None = None
        """None while unknown, and where it is missing."""
        self.left_early = True


class PointWatch:
    """Watches the answers that one operating point's thresholds give."""

    def __init__(
        self,
        name: str,
        point: OperatingPoint,
        metrics: ModelMetrics,
        *,
        on_verdict: Callable[["PointWatch"], None],
        max_missing_share: float,
        exits: DriftWatch,
    ) -> None:
        """Take what to call whenever the verdict changes."""
        self.name = name
        self.exits = exits
        self.agreed = self.differed = self.missing = 0
        certificate = point.certificate
        self.test: AgreementTest | None = None
        """None where nothing was certified that could be seen to break."""
        if certificate is not None and certificate.promises_agreement:
            self.test = AgreementTest(certificate.epsilon, certificate.delta)
        self.verdict = Verdict.HOLDS
        """What the test shows. Once it is broken it stays so: E needs to reach 1 / delta once."""
        self._metrics = metrics
        self._on_verdict = on_verdict
        self._in_order: deque[SampledRow] = deque()
        self._recent_missing: deque[bool] = deque(maxlen=RECENT_ROWS)
        self._max_missing_share = max_missing_share

    @property
    def too_many_missing(self) -> bool:
        """Whether so many rows were missing lately that the test may not notice a broken certificate."""
        return sum(self._recent_missing) > self._max_missing_share * len(self._recent_missing)

    def add(self, caller: str) -> SampledRow:
        """Add a caller's row that was admitted, behind those before it."""
        row = SampledRow(caller)
        self._in_order.append(row)
        return row

    def reached_final_exit(self, row: SampledRow) -> None:
        """Count a row whose answer is the final exit's own."""
        row.left_early = False
        self.compared(row, agreed=True)

    def compared(self, row: SampledRow, *, agreed: bool) -> None:
        """Count a row whose full-depth answer is known."""
        self.agreed += agreed
        self.differed += not agreed
        self._metrics.shadow_compared(self.name, agreed=agreed)
        self._settle(row, agreed)

    def lost(self, row: SampledRow) -> None:
        """Count a row whose full-depth answer will never be known as missing."""
        self.missing += 1
        self._metrics.shadow_missing(self.name)
        self._settle(row, None)

    def show(self) -> None:
        """Show in the metrics what the test makes of the rows."""
        if self.test is not None:
            suspected = self.verdict is Verdict.SUSPECTED
            self._metrics.evidence(self.name, self.test.evidence, suspected=suspected)
        self._metrics.missing_alarm(self.name, raised=self.too_many_missing)

    def _settle(self, row: SampledRow, agreed: bool | None) -> None:
        row.agreed, row.settled = agreed, True
        counted = False
        while self._in_order and self._in_order[0].settled:
            self._count(self._in_order.popleft())
            counted = True
        if counted:
            self.show()

    def _count(self, row: SampledRow) -> None:
        if row.left_early:
            self._recent_missing.append(row.agreed is None)
        if self.test is not None and self.verdict is not Verdict.BROKEN:
            self.test.count(agreed=row.agreed is not False, row=row.digest, caller=row.caller)
            before, self.verdict = self.verdict, self.test.verdict
            if self.verdict is not before:
                self._on_verdict(self)
