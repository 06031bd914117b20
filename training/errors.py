"""Errors of the training side that a user can fix.

TrainingError
├── RecipeError       the recipe has an unknown key, an unknown name or an impossible value
├── DatasetError      the data is missing, damaged or too small for the splits
├── RunError          the output folder cannot be used or resumed
├── AttachError       the ONNX file is damaged, has an unsupported form, or is ambiguous
│   └── NoSaving      the network with exits would cost hardly less than the network without
├── ExportMismatch    the exported stages differ from the PyTorch network
├── NotFinite         an exit returned NaN or infinity
└── Uncertified       a point lacks the certificate that its recipe requires

A message names the culprit, the expected and the given value.
"""


class TrainingError(Exception):
    """Base class of all errors that `python -m training` prints in one line."""


class RecipeError(TrainingError):
    """Raised when a recipe is not valid."""


class DatasetError(TrainingError):
    """Raised when a dataset is missing, damaged or too small for its splits."""


class RunError(TrainingError):
    """Raised when an output folder is in use, is not writable, or has files of another run or program."""


class AttachError(TrainingError):
    """Raised when exits cannot be attached to an ONNX file."""


class NoSaving(AttachError):
    """Raised if a network with exits would cost hardly less than without; nothing is published."""


class ExportMismatch(TrainingError):
    """Raised when the outputs of the exported stages differ from those of the PyTorch network."""


class NotFinite(TrainingError):
    """Raised when an exit returns NaN or infinity, which would make all results invalid."""


class Uncertified(TrainingError):
    """Raised if a point lacks the certificate that its recipe requires; nothing is published."""
