"""Checks that the stages answer as the finished file does.

The final exit is compared with the file on all rows, and the file's own output with the output computed from
its logits. Early exits are compared with their heads, computed in NumPy. Optimised sessions may sum in
another order at the end of a stage, so logits are equal within LOGIT_TOLERANCE, not bitwise.

Shapes: `N` rows, `B` rows of a batch, `E` exits, `K` classes, `P` pooled features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.stages.runner import Arrays
from training.attach.heads.weights import HeadWeights
from training.attach.network.logits import OUTPUT_TOLERANCE, file_output
from training.attach.network.sessions import open_session, run, with_outputs
from training.attach.network.source import SourceModel
from training.errors import AttachError, ExportMismatch
from training.release.exported_stage import LOGIT_TOLERANCE

BATCH_ROWS = 64

LogitArray = NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """The differences between the final exit and the file."""

    rows: int
    largest_logit: float
    largest_difference: float
    """Largest difference between a logit of the file and the same logit of the stages."""
    other_labels: int
    """Rows with another label. Their two largest logits differ by less than twice the tolerance."""

    def __str__(self) -> str:
        return (
            f"the final exit answers as the file on {self.rows:,} rows: logits differ by at most "
            f"{self.largest_difference:.1e}, the largest is {self.largest_logit:.3g}, "
            f"{self.other_labels} labels differ"
        )


def check_parity(source: SourceModel, logits_NK: LogitArray, rows: Arrays) -> Parity:
    """Compare the final exit's logits with the file's on the same rows.

    Raises ExportMismatch if a logit differs by more than LOGIT_TOLERANCE times the batch's largest logit (at
    least 1).
    """
    outputs = dict.fromkeys([source.logits, source.output])
    session = open_session(with_outputs(source.original_model(), outputs))
    largest = difference = 0.0
    other_labels = 0
    for start in range(0, len(logits_NK), BATCH_ROWS):
        got_BK = logits_NK[start : start + BATCH_ROWS]
        batch = {
            name: np.ascontiguousarray(array[start : start + len(got_BK)]) for name, array in rows.items()
        }
        try:
            expected_BK, output = run(session, [source.logits, source.output], batch)
        except AttachError as error:
            raise AttachError(f"{source.path}: rows from {start}: {error}") from error
        _check_output(source, expected_BK, output, start)
        difference = max(difference, compare_logits("final exit", expected_BK, got_BK, start))
        largest = max(largest, float(np.abs(expected_BK).max()))
        other_labels += int((expected_BK.argmax(axis=1) != got_BK.argmax(axis=1)).sum())
    return Parity(len(logits_NK), largest, difference, other_labels)


def check_early_exits(
    heads: Sequence[HeadWeights], pooled_E: Sequence[LogitArray], logits_ENK: LogitArray
) -> float:
    """Compare early exits' logits with their heads on pooled features, each [N, P].

    Returns the largest difference between two logits. Raises ExportMismatch as check_parity does.
    """
    difference = 0.0
    for number, (head, pooled_NP) in enumerate(zip(heads, pooled_E, strict=True)):
        for start in range(0, len(pooled_NP), BATCH_ROWS):
            batch = slice(start, start + BATCH_ROWS)
            expected_BK = head.logits(np.asarray(pooled_NP[batch]))
            got_BK = logits_ENK[number, batch]
            difference = max(difference, compare_logits(f"exit {number}", expected_BK, got_BK, start))
    return difference


def compare_logits(exit_name: str, expected_BK: LogitArray, got_BK: LogitArray, first_row: int) -> float:
    """Compare the logits of a batch; return the largest difference, or raise ExportMismatch."""
    if expected_BK.shape != got_BK.shape:
        raise ExportMismatch(
            f"{exit_name}: expected logits of shape {list(expected_BK.shape)}, got {list(got_BK.shape)}"
        )
    tolerance = LOGIT_TOLERANCE * max(1.0, float(np.abs(expected_BK).max()))
    difference_BK = np.abs(expected_BK - got_BK)
    if not (difference_BK <= tolerance).all():  # not(<=) also catches NaN
        row, label = np.unravel_index(np.argmin(difference_BK <= tolerance), difference_BK.shape)
        raise ExportMismatch(
            f"{exit_name}, row {first_row + row}, logit {label}: expected {expected_BK[row, label]} within "
            f"{tolerance:.2g}, got {got_BK[row, label]} from the stages"
        )
    return float(difference_BK.max())


def _check_output(source: SourceModel, logits_BK: LogitArray, output: NDArray[Any], first_row: int) -> None:
    """Raise ExportMismatch if the file's own output differs from the output computed from its logits."""
    expected_BK = file_output(source.ending, logits_BK)
    got_BK = np.asarray(output, np.float64).reshape(len(logits_BK), -1)
    tolerance = OUTPUT_TOLERANCE * max(1.0, float(np.abs(expected_BK).max()))
    wrong_B = ~(np.abs(expected_BK - got_BK) <= tolerance).all(axis=1)
    if wrong_B.any():
        row = int(wrong_B.argmax())
        raise ExportMismatch(
            f'row {first_row + row}: expected output "{source.output}" to be the {source.ending} of '
            f'"{source.logits}", {expected_BK[row].tolist()}, got {got_BK[row].tolist()}'
        )
