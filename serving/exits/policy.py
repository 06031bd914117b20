"""The exit policy: logits to probabilities, confidence and an exit mask. Pure functions on arrays.

Only this module decides exits. The server calls it on every batch; calibration, threshold search and
certification call the same functions offline. Independent of sessions, queues and requests.

Shapes: `B` rows of a batch, `N` rows of a split, `E` exits, `K` classes. Probabilities and confidences
are FP64, because thresholds are JSON doubles: a threshold may lie between two confidences that are equal in
FP32. A NaN confidence compares false with everything, so its row is never confident.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

DISABLED = np.inf
"""The threshold of a disabled exit. No confidence reaches it. A threshold of 1.0 would not disable an exit,
because a saturated softmax gives a confidence of 1.0."""

CONTINUES = -1
"""In an array of reasons: the row does not leave here."""


class ExitReason(IntEnum):
    """Why a row left at its exit."""

    CONFIDENT = 0
    FINAL = 1
    CAPPED = 2
    DEADLINE = 3
    DEGRADED = 4


# np.where is twice as fast with 0-d arrays as with Python numbers.
_CONFIDENT, _FINAL, _CAPPED, _CONTINUES = (
    np.array(reason, dtype=np.int32)
    for reason in (ExitReason.CONFIDENT, ExitReason.FINAL, ExitReason.CAPPED, CONTINUES)
)


@dataclass(frozen=True, slots=True)
class ExitRule:
    """The exit rule of one request: a threshold for each early exit, and the deepest exit."""

    thresholds: tuple[float | None, ...]
    """E-1 entries; None disables the exit."""
    max_exit: int
    """The cap: the exit at which every remaining row leaves. E-1 means no cap."""
    operating_point: str = ""
    """Name of the operating point, or CUSTOM_POINT. Does not affect the decision."""

    @property
    def final_exit(self) -> int:
        """The number of the last exit."""
        return len(self.thresholds)

    def threshold(self, exit_number: int) -> float:
        """Return the smallest confidence with which a row leaves at an exit; DISABLED if there is none."""
        if exit_number == self.final_exit:
            return DISABLED
        threshold = self.thresholds[exit_number]
        return DISABLED if threshold is None else threshold

    def next_exit(self, exit_number: int) -> int:
        """Return the first exit at or after `exit_number` where a row may leave."""
        last = min(self.max_exit, self.final_exit)
        for number in range(exit_number, last):
            if self.thresholds[number] is not None:
                return number
        return max(last, exit_number)


@dataclass(slots=True)
class Readout:
    """An exit's probabilities, label and confidence for each row of a batch."""

    probabilities_BK: Floats
    label_B: Integers
    confidence_B: Floats


def read_exit(logits_BK: NDArray[np.floating], calibration_temperature: float) -> Readout:
    """Apply the calibrated softmax to an exit's logits."""
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is never confident
        scaled_BK = logits_BK.astype(np.float64)
        scaled_BK /= calibration_temperature
        scaled_BK -= np.maximum.reduce(scaled_BK, axis=1, keepdims=True)
        probabilities_BK = np.exp(scaled_BK, scaled_BK)
        total_B = np.add.reduce(probabilities_BK, axis=1)
        probabilities_BK /= total_B[:, np.newaxis]
    # The largest scaled logit is 0, so the largest probability is exp(0) / total.
    return Readout(probabilities_BK, probabilities_BK.argmax(axis=1), 1.0 / total_B)


def decide(
    confidence_B: Floats, threshold_B: Floats | float, capped_B: Bools | bool, *, final: bool
) -> NDArray[np.int32]:
    """Return the ExitReason of each row at one exit, or CONTINUES.

    threshold_B and capped_B come from the rows' own rules; each may be a scalar if it is equal for all
    rows. A row that reaches its threshold is CONFIDENT even at its cap. At the final exit all remaining
    rows leave.
    """
    if final:
        otherwise = _FINAL
    elif isinstance(capped_B, bool):
        otherwise = _CAPPED if capped_B else _CONTINUES
    else:
        otherwise = np.where(capped_B, _CAPPED, _CONTINUES)
    return np.where(confidence_B >= threshold_B, _CONFIDENT, otherwise)


def route(confidence_EN: Floats, rule: ExitRule) -> Integers:
    """Return the exit at which each row of a split leaves under one rule, as in the server.

    confidence_EN: confidences of all rows at all exits. Returns exit_N.
    """
    exits, rows = confidence_EN.shape
    exit_N = np.full(rows, exits - 1)
    waiting_N = np.ones(rows, dtype=bool)
    for number, confidence_N in enumerate(confidence_EN):
        reason_N = decide(
            confidence_N,
            np.full(rows, rule.threshold(number)),
            np.full(rows, number >= rule.max_exit),
            final=number == exits - 1,
        )
        leaving_N = waiting_N & (reason_N != CONTINUES)
        exit_N[leaving_N] = number
        waiting_N &= ~leaving_N
    return exit_N
