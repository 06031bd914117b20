"""Which thresholds each operating point's name stands for now.

A point whose certificate was revoked stands for a safer one: at no exit does that let a row leave which
the revoked one would keep, and at some exit it keeps more. Of those that are certified the fastest is
taken, and `exact` is behind all. Nothing comes back by itself. Knows nothing of why a certificate was
revoked.
"""

import math
from collections.abc import Iterable

from serving.exits.policy import ExitRule
from serving.repository.manifest import EXACT_POINT, Manifest, Thresholds


class PointsInForce:
    """The operating points of one served version."""

    def __init__(self, manifest: Manifest, revoked: Iterable[str] = ()) -> None:
        """Take the names that are revoked from the start; those the version does not know are passed over."""
        self._manifest = manifest
        self._certified = {
            name: point
            for name, point in manifest.operating_points.items()
            if point.certificate is not None and point.certificate.promises_agreement
        }
        self.default = manifest.default_operating_point
        self.final_exit = len(manifest.stages) - 1
        self.revoked = {name for name in revoked if name in self._certified}
        self._rules: dict[tuple[str, int], ExitRule] = {}

    def rule(self, name: str, max_exit: int) -> ExitRule:
        """Return the rule that applies to callers of a point; raise InvalidRequest if it is unknown."""
        rules = self._rules  # looked up once: a revocation meanwhile replaces it, and this rule with it
        rule = rules.get((name, max_exit))
        if rule is None:
            in_force = self.in_force(name)
            rule = ExitRule(self._manifest.operating_point(in_force).thresholds, max_exit, in_force)
            rules[name, max_exit] = rule
        return rule

    def in_force(self, name: str) -> str:
        """Return the point whose thresholds apply to callers of that one; raise InvalidRequest if unknown."""
        self._manifest.operating_point(name)
        while name in self.revoked:
            name = self._next_safer(name)
        return name

    def thresholds(self, name: str) -> Thresholds:
        """Return the thresholds that apply to callers of that point."""
        return self._manifest.operating_point(self.in_force(name)).thresholds

    def revoke(self, name: str) -> str:
        """Revoke a point's certificate; returns the point that is in force instead."""
        assert name in self._certified, f"{name} has no certificate to revoke"
        self.revoked.add(name)
        self._rules = {}
        return self.in_force(name)

    def reinstate(self, name: str) -> None:
        """Put a point's own thresholds back in force: on an operator's command, never by itself."""
        self.revoked.discard(name)
        self._rules = {}

    def _next_safer(self, name: str) -> str:
        revoked = self._certified[name].thresholds
        safer = [other for other, each in self._certified.items() if _is_safer(each.thresholds, revoked)]
        return min(safer, key=lambda other: self._certified[other].multiply_adds_share, default=EXACT_POINT)


def _is_safer(thresholds: Thresholds, than: Thresholds) -> bool:
    """Whether rows leave at no exit sooner, and at some exit later."""
    ours, theirs = (
        [math.inf if threshold is None else threshold for threshold in each] for each in (thresholds, than)
    )
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))
