"""A stage as it was written to disk, whoever wrote it; needs no torch."""

from dataclasses import dataclass

from serving.stages.runner import StageFile

LOGIT_TOLERANCE = 1e-4
"""Largest difference between a network's logit and its exported stage's, as a share of the exit's
largest logit (at least 1): what another order of FP32 sums may move."""


@dataclass(frozen=True)
class ExportedStage:
    """A stage as it was written, with what it costs."""

    file: StageFile
    multiply_adds: int
    """Of this stage and its head alone, for one row."""
    parameters: int
