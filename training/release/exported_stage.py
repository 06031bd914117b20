"""A stage on disk, exported from PyTorch or cut from an ONNX file."""

from dataclasses import dataclass

from serving.stages.runner import StageFile

LOGIT_TOLERANCE = 1e-4
"""Largest difference between a network's logits and those of its exported stages.

Relative to the exit's largest logit, or to 1 if that is smaller. It allows for FP32 sums in another order.
"""


@dataclass(frozen=True)
class ExportedStage:
    """An exported stage, with its cost."""

    file: StageFile
    multiply_adds: int
    """Multiply-adds of this stage and its head, for one row."""
    parameters: int
