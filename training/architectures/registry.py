"""The registry of architectures.

To add one, write a file in this folder, register its function here, and add its name to `ArchitectureName`
of `training.recipe.settings`.
"""

from collections.abc import Callable, Mapping

from torch import nn

from training.architectures.deep_supervision import deep_supervision
from training.architectures.network import MultiExitNetwork, NetworkOptions
from training.architectures.residual import residual

Architecture = Callable[[nn.Module, NetworkOptions], MultiExitNetwork]
"""Builds a network from its normalisation and options, with fresh weights from PyTorch's global generator.

Raises RecipeError if the images do not fit.
"""

ARCHITECTURES: Mapping[str, Architecture] = {"deep_supervision": deep_supervision, "residual": residual}


def build(name: str, normalisation: nn.Module, options: NetworkOptions) -> MultiExitNetwork:
    """Build a registered architecture; raise RecipeError if the images do not fit it."""
    return ARCHITECTURES[name](normalisation, options)
