"""Every error of the training side that a user can mend.

TrainingError
├── RecipeError       the recipe is wrong: an unknown key, an impossible value, a name not known
├── DatasetError      the data is missing, damaged or too small for the splits
├── RunError          the output folder is not in a state to run or resume in
├── AttachError       an ONNX file is damaged, of a form that cannot be cut, or ambiguous
├── ExportMismatch    the exported stages do not answer as the PyTorch network does
├── NotFinite         an exit answered with NaN or infinity
└── Uncertified       a point faster than full depth has no certificate, and nobody said that it may

A message names the culprit and both values, expected and got.
"""


class TrainingError(Exception):
    """Base of every error that `python -m training` reports in one line."""


class RecipeError(TrainingError):
    """Raised when a recipe is not one that can be run."""


class DatasetError(TrainingError):
    """Raised when a dataset is missing, damaged or too small for its splits."""


class RunError(TrainingError):
    """Raised when the output folder holds something that the run would overwrite or cannot resume."""


class AttachError(TrainingError):
    """Raised when a finished ONNX file cannot be given exits as it is."""


class NoSaving(AttachError):
    """Raised before a network with exits is published that costs hardly less than without."""


class ExportMismatch(TrainingError):
    """Raised when the exported chain of stages differs from the network it came from."""


class NotFinite(TrainingError):
    """Raised when an exit gives NaN or infinity: no figure made of it would mean a thing."""


class Uncertified(TrainingError):
    """Raised before a point is published that promises nothing where its recipe asked for a promise."""
