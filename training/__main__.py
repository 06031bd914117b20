"""The command line of training: `python -m training run RECIPE` and `python -m training recipes`.

Exit codes: 0 done, or nothing left to do; 2 a mistake that the user can mend, said in one line on
stderr; 130 interrupted, with a line that says how to resume.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.errors import RepositoryError
from training.errors import TrainingError

MISTAKE, INTERRUPTED = 2, 130
SECONDS_OF_A_MINUTE = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    # cuBLAS repeats itself only with a fixed workspace, which it reads when it is first loaded.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    options = _parser().parse_args(arguments)
    try:
        if options.command == "recipes":
            _list_recipes()
        else:
            _run(options)
    except (TrainingError, RepositoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except OSError as error:  # a full disk, a folder that went away
        print(f"error: {error}; {_how_to_resume(options)}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print(f"interrupted; {_how_to_resume(options)}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train and publish a model.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("recipes", help="list the built-in recipes: needs, and time on this machine")
    run = commands.add_parser("run", help="train a recipe and publish what comes of it")
    run.add_argument("recipe", metavar="RECIPE", help="a built-in recipe's name, or the path of a TOML file")
    run.add_argument("--output", type=Path, metavar="DIR", help="the run's folder (default: runs/<recipe>)")
    run.add_argument(
        "--model-repository", type=Path, default=Path("models"), metavar="DIR", help="default: models"
    )
    run.add_argument("--resume", action="store_true", help="go on with the run that the folder holds")
    run.add_argument("--seed", type=int, metavar="N", help="replaces the recipe's seed, and nothing else")
    return parser


def _list_recipes() -> None:
    from training.data.registry import DATASETS
    from training.estimate import training_seconds
    from training.recipe import built_in_recipes, load_recipe

    for name in built_in_recipes():
        recipe = load_recipe(name)
        print(f"{name:<16} {recipe.description}")
        print(f"{'':<16} needs: {DATASETS[recipe.dataset.name].needs}")
        print(f"{'':<16} trains here: {_about(training_seconds(recipe))}", flush=True)


def _about(seconds: float | None) -> str:
    if seconds is None:
        return "as long as your data asks"
    if seconds < SECONDS_OF_A_MINUTE:
        return f"about {seconds:.0f} s, told from a few steps"
    return f"about {seconds / SECONDS_OF_A_MINUTE:.0f} min, told from a few steps"


def _run(options: argparse.Namespace) -> None:
    # PyTorch takes seconds to import; a mistyped command should not wait for it.
    from training.born_again.progress import ProgressBar
    from training.pipeline import run
    from training.recipe import load_recipe
    from training.run_folder import RunFolder

    recipe = load_recipe(options.recipe)
    if options.seed is not None:
        recipe = recipe.with_seed(options.seed)
    folder = RunFolder(_output(options))
    record, did_run = run(
        recipe, _recipe_name(options), folder, options.model_repository, ProgressBar(), resume=options.resume
    )
    what = f"{record.model} version {record.version}, generation {record.chosen_generation}"
    where = f"{record.published}, report: {folder.report_path.resolve()}"
    print(f"published {what}: {where}" if did_run else f"nothing to do, already published {what}: {where}")


def _recipe_name(options: argparse.Namespace) -> str:
    return Path(options.recipe).stem


def _output(options: argparse.Namespace) -> Path:
    return options.output or Path("runs") / _recipe_name(options)


def _how_to_resume(options: argparse.Namespace) -> str:
    if options.command != "run":
        return "nothing was begun"
    command = ["python", "-m", "training", "run", options.recipe, "--output", str(_output(options))]
    command += ["--model-repository", str(options.model_repository)]
    if options.seed is not None:
        command += ["--seed", str(options.seed)]
    return f"resume with: {shlex.join([*command, '--resume'])}"


if __name__ == "__main__":
    sys.exit(main())
