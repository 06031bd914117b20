"""The thresholds in force for each operating point.

A revoked point is replaced by a safer one. A point is safer if no exit has a lower threshold, and at least
one exit has a higher one. The fastest safer point with a certificate is used, or `exact` if there is none.
A revoked point is never reinstated automatically.
"""

import math
from collections.abc import Mapping
from typing import Literal

from serving.exits.policy import ExitRule
from serving.repository.manifest import EXACT_POINT, Manifest, Thresholds

RevokedBy = Literal["monitor", "operator"]


class PointsInForce:
    """The operating points of one served version."""

    def __init__(self, manifest: Manifest, revoked: Mapping[str, RevokedBy] | None = None) -> None:
        """Start with the given revocations, by name. Names that this version lacks are ignored."""
        self._manifest = manifest
        self._certified = {
            name: point
            for name, point in manifest.operating_points.items()
            if point.certificate is not None and point.certificate.promises_agreement
        }
        self.default = manifest.default_operating_point
        self.final_exit = len(manifest.stages) - 1
        self.revocable = {
            name
            for name, point in manifest.operating_points.items()
            if any(threshold is not None for threshold in point.thresholds)
        }
        """Names of the points that let rows leave early."""
        self.revoked = {name: by for name, by in (revoked or {}).items() if name in self.revocable}
        self._rules: dict[tuple[str, int], ExitRule] = {}

    def rule(self, name: str, max_exit: int) -> ExitRule:
        """Return the rule that applies to a requested point; raise InvalidRequest if it is unknown."""
        # Read the attribute once: a concurrent revocation replaces the dict. Then the rule is added to the
        # old dict, which later calls do not read.
        rules = self._rules
        rule = rules.get((name, max_exit))
        if rule is None:
            in_force = self.in_force(name)
            rule = ExitRule(self._manifest.operating_point(in_force).thresholds, max_exit, in_force)
            rules[name, max_exit] = rule
        return rule

    def in_force(self, name: str) -> str:
        """Return the point whose thresholds apply to a requested point; raise InvalidRequest if unknown."""
        self._manifest.operating_point(name)
        while name in self.revoked:
            name = self._next_safer(name)
        return name

    def thresholds(self, name: str) -> Thresholds:
        """Return the thresholds that apply to a requested point."""
        return self._manifest.operating_point(self.in_force(name)).thresholds

    def revoke(self, name: str, by: RevokedBy) -> str:
        """Revoke a point and return the point in force instead."""
        assert name in self.revocable, f"{name} lets no row leave early"
        self.revoked[name] = by
        self._rules = {}
        return self.in_force(name)

    def reinstate(self, name: str) -> None:
        """Put a point's own thresholds back in force. Only an operator's command does this."""
        del self.revoked[name]
        self._rules = {}

    def _next_safer(self, name: str) -> str:
        revoked = self._manifest.operating_points[name].thresholds
        safer = [other for other, point in self._certified.items() if _is_safer(point.thresholds, revoked)]
        return min(safer, key=lambda other: self._certified[other].multiply_adds_share, default=EXACT_POINT)


def _is_safer(thresholds: Thresholds, than: Thresholds) -> bool:
    """Return whether no threshold is lower than its counterpart, and at least one is higher."""
    these, others = (
        [math.inf if threshold is None else threshold for threshold in point] for point in (thresholds, than)
    )
    return these != others and all(a >= b for a, b in zip(these, others, strict=True))
