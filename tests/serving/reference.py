"""The expected answers of the scripted model's rows, computed row by row in plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.exits.policy import ExitReason, ExitRule
from tests.serving.scripted_model import NAN, RAISES, STAGES, confidence


@dataclass(frozen=True)
class Fails:
    """The row makes its request fail."""


@dataclass(frozen=True)
class Leaves:
    """The row is answered."""

    label: int
    exit: int
    reason: ExitReason
    confidence: float


def alone(row: NDArray[np.uint8], rule: ExitRule) -> Leaves | Fails:
    """Compute the answer of one row under an exit rule."""
    pixels = row.ravel().tolist()
    label, margins, fates = pixels[0], [tenths / 10 for tenths in pixels[1:4]], [0, *pixels[4:]]
    for stage in range(STAGES):
        if fates[stage] == RAISES:
            return Fails()
        last, threshold = stage == STAGES - 1, None if stage == STAGES - 1 else rule.thresholds[stage]
        sure = confidence(margins[stage])
        if fates[stage] == NAN:
            if last or stage == rule.max_exit:
                return Fails()
        elif threshold is not None and sure >= threshold:
            return Leaves(label, stage, ExitReason.CONFIDENT, sure)
        elif last:
            return Leaves(label, stage, ExitReason.FINAL, sure)
        elif stage == rule.max_exit:
            return Leaves(label, stage, ExitReason.CAPPED, sure)
    raise AssertionError("the last stage answers every row")


def all_alone(rows: NDArray[np.uint8], rule: ExitRule) -> list[Leaves] | Fails:
    """Compute the answers of a request. The request fails if one of its rows fails."""
    answers: Sequence[Leaves | Fails] = [alone(row, rule) for row in rows]
    left = [answer for answer in answers if isinstance(answer, Leaves)]
    return left if len(left) == len(answers) else Fails()
