"""Converts a request's options to the rule that the exit policy applies."""

import math
from dataclasses import dataclass

from serving.errors import InvalidRequest, shown
from serving.exits.points import PointsInForce
from serving.exits.policy import ExitRule
from serving.repository.manifest import CUSTOM_POINT


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The options of a request. None means that the caller did not set the option."""

    operating_point: str | None = None
    threshold: float | None = None
    """Threshold of every early exit, in [0, 1]."""
    max_exit: int | None = None
    """The deepest exit to use, 0..E-1."""
    synthetic: bool = False
    """Whether the monitor ignores the request because it is not real traffic."""


NO_OPTIONS = RequestOptions()


def exit_rule(points: PointsInForce, options: RequestOptions) -> ExitRule:
    """Return the exit rule of a request; without options, the rule of the default operating point.

    If the requested point is revoked, the rule is that of the point in force instead. Raises
    InvalidRequest for an unknown point, a threshold outside [0, 1], a max_exit outside 0..E-1, and for
    an operating point together with a threshold.
    """
    final_exit = points.final_exit
    max_exit = final_exit if options.max_exit is None else options.max_exit
    if not 0 <= max_exit <= final_exit:
        raise InvalidRequest(f"max_exit: expected 0 to {final_exit}, got {max_exit}")
    if options.threshold is None:
        name = points.default if options.operating_point is None else options.operating_point
        return points.rule(name, max_exit)
    if options.operating_point is not None:
        raise InvalidRequest(
            f"operating_point and threshold: expected one of them, "
            f'got operating_point "{shown(options.operating_point)}" and threshold {options.threshold}'
        )
    if math.isnan(options.threshold) or not 0.0 <= options.threshold <= 1.0:
        raise InvalidRequest(f"threshold: expected a number in [0, 1], got {options.threshold}")
    return ExitRule((options.threshold,) * final_exit, max_exit, CUSTOM_POINT)
