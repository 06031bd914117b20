"""The current state of an operating point, as the client shows it."""

import math
from dataclasses import dataclass

from serving.api.wire import inference
from serving.console.printable import printable


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
    """Against the certificate: 1 before the first row, sufficient at 1 / delta; 0 without a test."""
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
        """Convert a message of the wire."""
        return cls(
            in_force=state.in_force,
            thresholds=tuple(None if math.isinf(each) else each for each in state.thresholds),
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

    def describe(self, name: str) -> str:
        """Return a description for people: one line, with details indented below it."""
        name, in_force, by = map(printable, (name, self.in_force, self.revoked_by))
        if not any(threshold is not None for threshold in self.thresholds) and not self.revoked:
            return f"{name}: in force, no row leaves early"
        thresholds = " ".join("-" if each is None else f"{each:.4g}" for each in self.thresholds)
        state = f"revoked by the {by}, {in_force} in its place" if self.revoked else "in force"
        lines = [f"{name}: {state}, thresholds {thresholds}", *self._on_certificate()]
        lines.append(
            f"sampled rows: {self.shadow_agreed} agreed with the full network, "
            f"{self.shadow_differed} differed, {self.shadow_missing} missing"
        )
        if self.too_many_missing:
            lines.append("too many sampled rows are missing: a broken certificate may go unnoticed")
        if self.revoked:
            lines.append("until an operator puts it back in force: python -m serving reinstate")
        return "\n  ".join(lines)

    def _on_certificate(self) -> list[str]:
        if not self.verdict:
            return ["no certificate that sampled rows could test"]
        promise = f"at most {self.epsilon:.3g} of answers differ from the full network's"
        if self.verdict == "broken":
            return [f"certificate broken: it states that {promise}; sampled rows show that more do"]
        if self.verdict == "suspected":
            return [
                f"certificate suspected: it states that {promise}; one caller's rows show that more do",
                "the server's log names the caller; if that traffic is real: python -m serving revoke",
            ]
        needed = 1 / self.delta
        if self.shadow_agreed + self.shadow_differed + self.shadow_missing == 0:
            evidence = "no row was sampled yet"
        elif self.evidence <= 1:
            evidence = "no evidence against it"
        else:
            evidence = f"some evidence against it, {self.evidence:.3g} where {needed:.3g} breaks it"
        return [f"certificate holds: {promise}; {evidence}"]
