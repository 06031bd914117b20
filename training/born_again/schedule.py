"""The learning rate as a pure function of the step: one cycle, up and down along half a cosine.

Smith and Topin, "Super-Convergence", 2018. Holds no state, so a resumed run needs only its step.
"""

import math

START_SHARE = 1 / 25
"""The first step's learning rate, as a share of the peak."""
END_SHARE = 1 / 250_000
"""What the learning rate falls towards, as a share of the peak."""


def one_cycle(step: int, steps: int, *, peak: float, warm_up_share: float) -> float:
    """Give the learning rate of a step, 0 to steps - 1."""
    position = step / max(1, steps - 1)
    if position < warm_up_share:
        return peak * _cosine(START_SHARE, 1.0, position / warm_up_share)
    return peak * _cosine(1.0, END_SHARE, (position - warm_up_share) / max(1 - warm_up_share, 1e-12))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
