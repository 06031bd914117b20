"""The exit policy: logits to probabilities, confidence and an exit mask. Pure functions on arrays.

This is the one place where exits are decided: the server calls it on every batch, and calibration,
threshold search and certificates call the same functions offline. Knows nothing of sessions, queues
or requests.

Shapes: `B` rows of a batch, `N` rows of a split, `E` exits, `K` classes. Probabilities and
confidences are FP64: thresholds are JSON doubles that separate distinct confidences, which FP32
would merge. A NaN confidence compares false with everything, so it is never confident.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

DISABLED = np.inf
"""The threshold of a disabled exit: no confidence reaches it, while 1.0 is reached by saturation."""

STAYS = -1
"""In a reasons array: the row does not leave here."""


class ExitReason(IntEnum):
    """Why a row left where it did."""

    CONFIDENT = 0
    FINAL = 1
    CAPPED = 2
    DEADLINE = 3
    DEGRADED = 4


# As arrays without a dimension, which np.where takes at half the time that numbers cost it.
_CONFIDENT, _FINAL, _CAPPED, _STAYS = (
    np.array(reason, dtype=np.int32)
    for reason in (ExitReason.CONFIDENT, ExitReason.FINAL, ExitReason.CAPPED, STAYS)
)


@dataclass(frozen=True, slots=True)
class ExitRule:
    """One request's rule: a threshold for each early exit, and the deepest stage it may use."""

    thresholds: tuple[float | None, ...]
    """E-1 entries; None disables the exit."""
    max_exit: int
    """At this exit a row always leaves; E-1 is no cap."""
    operating_point: str = ""
    """The published name, or the manifest's CUSTOM_POINT: a label for metrics, and no more."""

    @property
    def final_exit(self) -> int:
        """The number of the last exit."""
        return len(self.thresholds)

    def threshold(self, exit_number: int) -> float:
        """Smallest confidence that leaves at this exit; DISABLED where none does."""
        if exit_number == self.final_exit:
            return DISABLED
        threshold = self.thresholds[exit_number]
        return DISABLED if threshold is None else threshold

    def next_exit(self, exit_number: int) -> int:
        """Return the first exit from here where a row may leave: enabled, its cap, or the final one."""
        last = min(self.max_exit, self.final_exit)
        for number in range(exit_number, last):
            if self.thresholds[number] is not None:
                return number
        return max(last, exit_number)


@dataclass(slots=True)
class Readout:
    """What an exit says of each row of a batch."""

    probabilities_BK: Floats
    label_B: Integers
    confidence_B: Floats


def read_exit(logits_BK: NDArray[np.floating], calibration_temperature: float) -> Readout:
    """Apply the calibrated softmax to an exit's logits and take label and confidence from it."""
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is never confident
        scaled_BK = logits_BK.astype(np.float64)
        scaled_BK /= calibration_temperature
        scaled_BK -= np.maximum.reduce(scaled_BK, axis=1, keepdims=True)
        probabilities_BK = np.exp(scaled_BK, scaled_BK)
        total_B = np.add.reduce(probabilities_BK, axis=1)
        probabilities_BK /= total_B[:, np.newaxis]
    # The largest logit was shifted to 0, so the largest probability is exp(0) / total.
    return Readout(probabilities_BK, probabilities_BK.argmax(axis=1), 1.0 / total_B)


def decide(
    confidence_B: Floats, threshold_B: Floats | float, capped_B: Bools | bool, *, final: bool
) -> NDArray[np.int32]:
    """Return for each row at one exit why it leaves, as an ExitReason, or STAYS.

    threshold_B and capped_B come from the rows' own rules; where all rows have the same, one value will
    do. A row that clears its threshold is confident even at its cap; at the final exit all that remain
    leave.
    """
    if final:
        otherwise = _FINAL
    elif isinstance(capped_B, bool):
        otherwise = _CAPPED if capped_B else _STAYS
    else:
        otherwise = np.where(capped_B, _CAPPED, _STAYS)
    return np.where(confidence_B >= threshold_B, _CONFIDENT, otherwise)


def route(confidence_EN: Floats, rule: ExitRule) -> Integers:
    """Return the exit at which each row of a split leaves under one rule, as the server would.

    confidence_EN holds every exit's confidence for every row; returns exit_N.
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
        leaving_N = waiting_N & (reason_N != STAYS)
        exit_N[leaving_N] = number
        waiting_N &= ~leaving_N
    return exit_N
