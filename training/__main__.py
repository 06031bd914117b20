"""The command line of training: `attach MODEL.onnx`, `run RECIPE`, `retarget`, `study STUDY`, `recipes`.

Exit codes: 0 done, or nothing left to do; 2 a mistake that the user can mend, said in one line on
stderr; 130 interrupted, by Ctrl-C or SIGTERM, with a line that says how to resume; 141 where the reader
of stdout or stderr has gone.
"""

import argparse
import errno
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from serving.console.standard_streams import complain, run_command
from serving.errors import RepositoryError
from training.attach import options as attach_options
from training.errors import TrainingError
from training.retarget import options as retarget_options
from training.run import interrupt
from training.run import options as run_options

MISTAKE, INTERRUPTED = 2, 130
SECONDS_OF_A_MINUTE = 60
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""A full disk, a full quota, and a file larger than this process may write."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    # cuBLAS repeats itself only with a fixed workspace, which it reads when it is first loaded.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    options = _parser().parse_args(arguments)
    try:
        COMMANDS[options.command](options)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        return _end(error, options)
    return 0


def _end(error: BaseException, options: argparse.Namespace) -> int:
    """Return in a line what ended a command, and give its exit code; raise again what is our own bug."""
    if isinstance(error, KeyboardInterrupt) or interrupt.came():
        interrupt.hold_back()
        complain(f"interrupted; {_how_to_go_on(options)}")
        return INTERRUPTED
    if isinstance(error, (TrainingError, RepositoryError)):
        complain(f"error: {error}")
        return MISTAKE
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        complain(f"error: no space left: {error}; free some space and {_how_to_go_on(options)}")
        return MISTAKE
    if isinstance(error, OSError):  # a folder that went away
        complain(f"error: {error}; {_how_to_go_on(options)}")
        return MISTAKE
    raise error


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m training", description="Train and publish a model.")
    commands = parser.add_subparsers(dest="command", required=True)
    attach_options.add_to(commands.add_parser("attach", help=attach_options.HELP))
    recipes = commands.add_parser(
        "recipes", help="list the built-in recipes: needs, and time on this machine"
    )
    recipes.add_argument(
        "--json", action="store_true", help="every setting that a run can replace instead, as JSON"
    )
    run_options.add_to(commands.add_parser("run", help=run_options.HELP))
    retarget_options.add_to(commands.add_parser("retarget", help=retarget_options.HELP))
    study = commands.add_parser("study", help="compare rules, generations and seeds, and write a page of it")
    study.add_argument("study", metavar="STUDY", help="a built-in study's name, or the path of a TOML file")
    study.add_argument(
        "--output", type=Path, metavar="DIR", help="where it trains (default: runs/study-<study>)"
    )
    study.add_argument(
        "--page", type=Path, metavar="DIR", help="where page and counts go (default: docs/studies/<study>)"
    )
    study.add_argument("--resume", action="store_true", help="go on with the study that the folder holds")
    run_options.add_allow_other_precision(study)
    return parser


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage, which `--help` has."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"error: {message}; see {self.prog} --help\n")


def _list_recipes(options: argparse.Namespace) -> None:
    if options.json:
        from training.recipe.catalogue import catalogue

        print(json.dumps(catalogue(), indent=2))
    else:
        _list_recipes_with_times()


def _list_recipes_with_times() -> None:
    from training.data.registry import DATASETS
    from training.recipe.recipe import built_in_recipes, load_recipe
    from training.run.estimate import training_seconds

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


def _attach(options: argparse.Namespace) -> None:
    # As of `run`.
    with interrupt.held_back():
        from training.attach.folder import AttachFolder
        from training.attach.pipeline import attach
        from training.attach.progress import AttachProgress

    folder = AttachFolder(attach_options.output(options))
    record, did = attach(
        attach_options.settings(options),
        folder,
        options.model_repository,
        AttachProgress(),
        resume=options.resume,
        force=options.force,
    )
    balanced = record.points["balanced"]
    what = (
        f"{record.settings.name} version {record.version}: balanced takes {balanced.cost_share:.1%} of the "
        f"network's multiply-adds and differs on {balanced.disagreements} of {record.test_rows:,} test rows"
    )
    where = f"{record.published}, report: {folder.report.resolve()}"
    print(f"published {what}: {where}" if did else f"nothing to do, already published {what}: {where}")


def _run(options: argparse.Namespace) -> None:
    if options.stop_with_stdin:
        interrupt.stop_with_stdin()
    # PyTorch takes seconds to import; a mistyped command should not wait for it.
    with interrupt.held_back():
        from training.born_again.progress import CombinedProgress, ProgressBar
        from training.recipe.recipe import load_recipe
        from training.run.events import Events
        from training.run.folder import RunFolder
        from training.run.pipeline import run

    recipe = load_recipe(options.recipe, run_options.overrides(options))
    folder = RunFolder(_output(options), allow_other_precision=options.allow_other_precision)
    events = Events(options.events) if options.events is not None else None
    progress = ProgressBar() if events is None else CombinedProgress(ProgressBar(), events)
    record, did_run = run(
        recipe,
        _recipe_name(options),
        folder,
        options.model_repository,
        progress,
        resume=options.resume,
        max_memory_bytes=options.max_memory_bytes,
    )
    if events is not None:
        events.published(record, folder.report_path.resolve())
    what = f"{record.model} version {record.version}, generation {record.chosen_generation}"
    where = f"{record.published}, report: {folder.report_path.resolve()}"
    print(f"published {what}: {where}" if did_run else f"nothing to do, already published {what}: {where}")


def _retarget(options: argparse.Namespace) -> None:
    from training.release.origin import OwnData
    from training.retarget.pipeline import retarget
    from training.retarget.point_changes import PointChanges

    changes = PointChanges(**{field.name: getattr(options, field.name) for field in fields(PointChanges)})
    data = OwnData.from_options(options.data, options.split_seed)
    print(retarget(options.model_repository, options.model, options.version, changes, data, _say))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _study(options: argparse.Namespace) -> None:
    from training.files.output_folder import hold
    from training.study.conduct import conduct, networks_done, seconds_of_networks
    from training.study.page import write_study
    from training.study.plan import load_study
    from training.study.progress import StudyProgress

    study, name, folder = load_study(options.study), Path(options.study).stem, _output(options)
    with hold(folder, resume=options.resume):
        progress = StudyProgress(seconds_of_networks(study), done=networks_done(folder))
        allowed = options.allow_other_precision
        record = conduct(study, name, folder, progress, allow_other_precision=allowed)
        page = write_study(options.page or Path("docs") / "studies" / name, record)
    print(f"study {name}: {len(record.networks)} networks, page: {page.resolve()}")


def _recipe_name(options: argparse.Namespace) -> str:
    return Path(options.recipe).stem


def _output(options: argparse.Namespace) -> Path:
    if options.command == "attach":
        return attach_options.output(options)
    if options.command == "study":
        return options.output or Path("runs") / f"study-{Path(options.study).stem}"
    return options.output or Path("runs") / _recipe_name(options)


def _how_to_go_on(options: argparse.Namespace) -> str:
    """Return the command that resumes, or begins again where nothing was kept."""
    if options.command in {"recipes", "retarget"}:
        return "run it again: nothing was written"
    output = _output(options)
    is_kept = output.is_dir() and any(output.iterdir())
    if options.command == "attach":
        return "resume with the same command and --resume" if is_kept else "run it again: nothing was kept"
    command = ["python", "-m", "training", options.command]
    command += [options.recipe if options.command == "run" else options.study]
    command += ["--output", str(output)]
    if options.command == "run":
        command += run_options.told(options)
    elif options.page is not None:
        command += ["--page", str(options.page)]
    if options.allow_other_precision:
        command.append("--allow-other-precision")
    if not is_kept:
        return f"begin again with: {shlex.join(command)}"
    return f"resume with: {shlex.join([*command, '--resume'])}"


COMMANDS = {"attach": _attach, "run": _run, "retarget": _retarget, "study": _study, "recipes": _list_recipes}


if __name__ == "__main__":
    interrupt.take_signals()
    exit_code = run_command(main, unwritten=MISTAKE)
    interrupt.hold_back()
    sys.exit(exit_code)
