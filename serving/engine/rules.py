"""Turns what a caller wishes of the exits into the rule that the policy applies."""

import math
from dataclasses import dataclass

from serving.engine.points import PointsInForce
from serving.engine.policy import ExitRule
from serving.errors import InvalidRequest, shown
from serving.repository.manifest import CUSTOM_POINT


@dataclass(frozen=True, slots=True)
class ExitWishes:
    """A request's early-exit parameters; None where the caller said nothing."""

    operating_point: str | None = None
    threshold: float | None = None
    """One smallest confidence for all early exits, in [0, 1]."""
    max_exit: int | None = None
    """The deepest exit to use, 0..E-1."""


NO_WISHES = ExitWishes()


def exit_rule(points: PointsInForce, wishes: ExitWishes) -> ExitRule:
    """Make the rule, from the version's default operating point where nothing is wished.

    It is that of the point in force: where a certificate was revoked, not the one asked for.
    Raises InvalidRequest for an unknown point, a threshold outside [0, 1], a max_exit outside
    0..E-1, and for an operating point and a threshold together.
    """
    final_exit = points.final_exit
    max_exit = final_exit if wishes.max_exit is None else wishes.max_exit
    if not 0 <= max_exit <= final_exit:
        raise InvalidRequest(f"max_exit: expected 0 to {final_exit}, got {max_exit}")
    if wishes.threshold is None:
        wished = wishes.operating_point
        name = points.in_force(points.default if wished is None else wished)
        return ExitRule(points.thresholds(name), max_exit, name)
    if wishes.operating_point is not None:
        raise InvalidRequest(
            f"operating_point and threshold: expected one of them, "
            f'got operating_point "{shown(wishes.operating_point)}" and threshold {wishes.threshold}'
        )
    if math.isnan(wishes.threshold) or not 0.0 <= wishes.threshold <= 1.0:
        raise InvalidRequest(f"threshold: expected a number in [0, 1], got {wishes.threshold}")
    return ExitRule((wishes.threshold,) * final_exit, max_exit, CUSTOM_POINT)
