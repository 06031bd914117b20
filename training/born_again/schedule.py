"""Learning rate and exit weight as functions of the step.

The learning rate rises once and then falls, each time along half a cosine wave (Smith and Topin,
"Super-Convergence", 2018). Rising exit weights follow Kaya et al., "Shallow-Deep Networks", ICML 2019.
"""

import math

START_SHARE = 1 / 25
"""Learning rate of the first step, as a share of the peak."""
END_SHARE = 1 / 250_000
"""Learning rate of the last step, as a share of the peak."""


def one_cycle(step: int, steps: int, *, peak: float, warm_up_share: float) -> float:
    """Compute the learning rate of a step, 0 to steps - 1."""
    position = _position(step, steps)
    if position < warm_up_share:
        return peak * _cosine(START_SHARE, 1.0, position / warm_up_share)
    return peak * _cosine(1.0, END_SHARE, (position - warm_up_share) / max(1 - warm_up_share, 1e-12))


def ramp(step: int, steps: int, *, start: float, end: float) -> float:
    """Interpolate linearly from start at the first step to end at the last."""
    return start + (end - start) * _position(step, steps)


def _position(step: int, steps: int) -> float:
    return step / max(1, steps - 1)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
