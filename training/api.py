"""The public Python interface of training."""

from os import PathLike
from pathlib import Path

from serving.errors import RepositoryError
from training.born_again.progress import ProgressBar
from training.errors import TrainingError
from training.init.proposal import propose
from training.init.source import model_name, open_dataset
from training.pipeline import run as pipeline
from training.pipeline.folder import RunFolder, RunRecord
from training.recipe.recipe import Recipe, load_recipe

__all__ = [
    "Recipe",
    "RepositoryError",
    "RunRecord",
    "TrainingError",
    "load_recipe",
    "propose_recipe",
    "run",
]


def propose_recipe(
    data: str | PathLike[str],
    *,
    name: str | None = None,
    minutes: float = 10.0,
    allow_overlap: bool = False,
    quiet: bool = False,
) -> Recipe:
    """Propose a recipe for a dataset, so that the run takes at most some minutes on this machine.

    data: an .npz file or a folder, as for `offramp init`. name: of the model; default: the last part of the
    path. Raises DatasetError for data that cannot be used, and RecipeError if the time is too short.
    """
    path, say = Path(data), ProgressBar(quiet=quiet).say
    proposal = propose(
        open_dataset(path),
        name or model_name(path),
        Path(),
        minutes=minutes,
        allow_overlap=allow_overlap,
        say=say,
    )
    for line in proposal.facts:
        say(line)
    return proposal.recipe


def run(
    recipe: Recipe,
    *,
    output: str | PathLike[str] | None = None,
    model_repository: str | PathLike[str] = "models",
    resume: bool = False,
    quiet: bool = False,
) -> RunRecord:
    """Train a recipe, publish the model and return the record of the run.

    output: the working folder; default: `runs/` and the recipe's model. An interrupted run can resume in it.
    quiet: print no progress on stderr. Raises TrainingError for mistakes in recipe, data or folders, and
    RepositoryError if the version cannot be published.
    """
    folder = RunFolder(Path(output) if output is not None else Path("runs") / recipe.model)
    record, _ = pipeline.run(
        recipe, recipe.model, folder, Path(model_repository), ProgressBar(quiet=quiet), resume=resume
    )
    return record
