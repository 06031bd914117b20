"""Train multi-exit classifiers that teach themselves, and publish them: recipe to model version.

Public are the names in `__all__`. All other names of this package may change in any version.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.errors import RepositoryError
    from training.api import Recipe, RunRecord, load_recipe, propose_recipe, run
    from training.errors import TrainingError

__all__ = [
    "Recipe",
    "RepositoryError",
    "RunRecord",
    "TrainingError",
    "load_recipe",
    "propose_recipe",
    "run",
]

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in serving/__init__.py


def __getattr__(name: str) -> object:
    """Import a public name on first use, because PyTorch takes seconds to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from training import api

    return getattr(api, name)
