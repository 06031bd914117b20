"""The current state of an operating point."""

import math
from dataclasses import dataclass

from serving.api.wire import inference


@dataclass(frozen=True)
class PointInForce:
    """The current state of an operating point and of the test of its certificate."""

    in_force: str
    """The point whose thresholds apply; a different one if this point is revoked."""
    thresholds: tuple[float | None, ...]
    revoked: bool
    shadow_agreed: int
    shadow_differed: int
    shadow_missing: int
    evidence: float
    """Evidence against the certificate: 1 before the first row, 0 without a test. If it is at least
    1 / delta, the certificate may be broken."""
    too_many_missing: bool
    """Whether so many sampled rows are missing that the test may overlook a broken certificate."""
    revoked_by: str
    """"monitor" or "operator"; empty if it is not revoked."""
    verdict: str
    """"holds", "suspected" (only by the rows of one caller) or "broken"; empty without a test."""
    epsilon: float
    """Largest certified share of answers that differ from the full network's; 0 without a test."""
    delta: float

    @classmethod
    def of(cls, state: inference.OperatingPointState) -> "PointInForce":
        """Convert a protobuf message."""
        return cls(
            in_force=state.in_force,
            thresholds=tuple(None if math.isinf(threshold) else threshold for threshold in state.thresholds),
            revoked=state.revoked,
            shadow_agreed=state.shadow_agreed,
            shadow_differed=state.shadow_differed,
            shadow_missing=state.shadow_missing,
            evidence=state.evidence,
            too_many_missing=state.too_many_missing,
            revoked_by=state.revoked_by,
            verdict=state.verdict,
            epsilon=state.epsilon,
            delta=state.delta,
        )
