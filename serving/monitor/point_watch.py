"""The sampled rows of one operating point, counted in admission order.

A row gets its position at admission, before its answer is known. It is counted when it and all rows before
it are settled. A row is settled in one of three ways:

- Its full-depth answer is known, and agrees or differs.
- It reached the final exit, and so agrees.
- It is missing: its request ended without an answer, or its full-depth run failed.

A missing row counts as agreeing, which can only prevent a revocation. But missing rows may hide
disagreement, so an alarm is raised if their share is too large.
"""

from collections import deque
from collections.abc import Callable

from serving.metrics.model_metrics import MonitorMetrics
from serving.monitor.agreement import AgreementTest, Verdict
from serving.repository.manifest import OperatingPoint

RECENT_ROWS = 100
"""Number of recent rows from which the share of missing rows is computed. Rows that reached the final exit
are left out."""


class SampledRow:
    """A sampled row of one operating point."""

    __slots__ = ("agreed", "caller", "digest", "left_early", "settled")

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.digest = b""
        """Digest of its input bytes, if it left early."""
        self.settled = False
        self.agreed: bool | None = None
        """None while it is unknown, or if the row is missing."""
        self.left_early = True


class PointWatch:
    """The sampled rows of one operating point, and the test of its certificate."""

    def __init__(
        self,
        name: str,
        point: OperatingPoint,
        metrics: MonitorMetrics,
        *,
        on_verdict: Callable[["PointWatch"], None],
        max_missing_share: float,
    ) -> None:
        """Start without rows. on_verdict: called whenever the verdict changes."""
        self.name = name
        self.agreed = self.differed = self.missing = 0
        certificate = point.certificate
        self.test: AgreementTest | None = None
        """None if the point has no certificate of agreement."""
        if certificate is not None and certificate.promises_agreement:
            self.test = AgreementTest(certificate.epsilon, certificate.delta)
        self.verdict = Verdict.HOLDS
        """The last verdict. BROKEN is final, since E has to reach 1 / delta only once."""
        self._metrics = metrics
        self._on_verdict = on_verdict
        self._in_order: deque[SampledRow] = deque()
        self._recent_missing: deque[bool] = deque(maxlen=RECENT_ROWS)
        self._max_missing_share = max_missing_share

    @property
    def too_many_missing(self) -> bool:
        """Whether so many recent rows are missing that the test may overlook a broken certificate."""
        return sum(self._recent_missing) > self._max_missing_share * len(self._recent_missing)

    def add(self, caller: str) -> SampledRow:
        """Add an admitted row of a caller, after all earlier ones."""
        row = SampledRow(caller)
        self._in_order.append(row)
        return row

    def reached_final_exit(self, row: SampledRow) -> None:
        """Settle a row that was answered at the final exit: it agrees."""
        row.left_early = False
        self.compared(row, agreed=True)

    def compared(self, row: SampledRow, *, agreed: bool) -> None:
        """Settle a row whose full-depth answer is known."""
        self.agreed += agreed
        self.differed += not agreed
        self._metrics.shadow_compared(self.name, agreed=agreed)
        self._settle(row, agreed)

    def lost(self, row: SampledRow) -> None:
        """Settle a row as missing: its full-depth answer will never be known."""
        self.missing += 1
        self._metrics.shadow_missing(self.name)
        self._settle(row, None)

    def show(self) -> None:
        """Update the metrics of the test and of the alarm for missing rows."""
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
