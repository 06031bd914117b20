"""Candidates with known results on the tune split, for tests that need no readings."""

from training.exits.evaluate import EvaluationCounts
from training.exits.thresholds import Candidate

ROWS = 10**9
"""Rows of the split: enough to represent shares as counts without rounding."""


def candidate_with(
    thresholds: tuple[float | None, ...],
    accuracy_loss: float,
    disagreement: float,
    multiply_adds_share: float,
    *,
    harm: float | None = None,
) -> Candidate:
    """Build a candidate from shares; the default harm is the smallest that the accuracy loss allows."""
    lost = round(accuracy_loss * ROWS)
    harms = max(lost, 0) if harm is None else round(harm * ROWS)
    counts = EvaluationCounts(
        n=ROWS,
        correct=ROWS - lost,
        final_correct=ROWS,
        gained=harms - lost,
        disagreements=round(disagreement * ROWS),
        exit_counts=(),
        multiply_adds_share=multiply_adds_share,
    )
    return Candidate(thresholds, counts)
