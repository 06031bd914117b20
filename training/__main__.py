"""The command line of training: `run`, `attach`, `retarget`, `recipes` and `study`.

Exit codes:

    0      success, or nothing was left to do
    2      an error that the user can correct; one line on stderr
    130    an interrupt by Ctrl-C or SIGTERM; a line on stderr states how to resume
    141    the reader of stdout or stderr has closed the pipe
"""

import argparse
import errno
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import NoReturn

from serving.console.command_parser import USAGE_ERROR, CommandParser, add_version, module_program
from serving.console.extras import requires_extra
from serving.console.standard_streams import print_error, print_to_stderr, run_command
from serving.errors import RepositoryError
from training.attach import options as attach_options
from training.errors import RecipeError, TrainingError
from training.init import options as init_options
from training.init.options import DEFAULT_MINUTES
from training.pipeline import interrupt, recipe_list
from training.pipeline import options as run_options
from training.retarget import options as retarget_options
from training.study import options as study_options

PROG = module_program(__spec__)
EXTRAS = {"retarget": "retarget"}
"""The extra that a command needs; for other commands it is `training`."""
MISTAKE, INTERRUPTED = USAGE_ERROR, 130
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers for a full disk, a full quota, and a file larger than this process may write."""


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run a command and return the exit code."""
    options = _parser(prog).parse_args(arguments)
    extra = EXTRAS.get(options.command, "training")
    try:
        with requires_extra(f"{options.prog} {options.command}", extra):
            options.run(options)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        return _end(error, options)
    return 0


def run_program(arguments: Sequence[str] | None = None, prog: str = PROG) -> NoReturn:
    """Run a command as the whole process."""
    interrupt.install_handlers()
    exit_code = run_command(lambda: main(arguments, prog), unwritten=MISTAKE)
    interrupt.disable()
    sys.exit(exit_code)


def _end(error: BaseException, options: argparse.Namespace) -> int:
    """Print why a command ended and return its exit code; raise an unexpected error again."""
    if isinstance(error, KeyboardInterrupt) or interrupt.was_interrupted():
        interrupt.disable()
        print_to_stderr(f"interrupted; {_how_to_continue(options)}")
        return INTERRUPTED
    if isinstance(error, (TrainingError, RepositoryError)):
        print_error(error)
        return MISTAKE
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        print_error(f"no space left: {error}; free some space and {_how_to_continue(options)}")
        return MISTAKE
    if isinstance(error, OSError):  # such as a folder that was removed
        print_error(f"{error}; {_how_to_continue(options)}")
        return MISTAKE
    raise error


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(
        prog=prog, description="Train models with early exits and publish them.", example="run digits"
    )
    parser.set_defaults(prog=prog)
    add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help=run_options.HELP)
    train = commands.add_parser("train", help="the same as run")
    for command in (run, train):
        run_options.add_to(command)
        command.set_defaults(run=_run)
    init = commands.add_parser("init", help=init_options.HELP)
    init_options.add_to(init)
    init.set_defaults(run=_init)
    attach = commands.add_parser("attach", help=attach_options.HELP)
    attach_options.add_to(attach)
    attach.example = "model.onnx --data rows.npz --name mine"
    attach.set_defaults(run=_attach)
    retarget = commands.add_parser("retarget", help=retarget_options.HELP)
    retarget_options.add_to(retarget)
    retarget.set_defaults(run=_retarget)
    recipes = commands.add_parser("recipes", help=recipe_list.HELP)
    recipe_list.add_to(recipes)
    recipes.set_defaults(run=recipe_list.list_recipes)
    study = commands.add_parser("study", help=study_options.HELP)
    study_options.add_to(study)
    study.set_defaults(run=_study)
    return parser


def _attach(options: argparse.Namespace) -> None:
    with interrupt.deferred():
        from training.attach.folder import AttachFolder
        from training.attach.pipeline import attach
        from training.attach.progress import AttachProgress

    folder = AttachFolder(attach_options.output(options))
    record, did_attach = attach(
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
    print(f"published {what}: {where}" if did_attach else f"nothing to do, already published {what}: {where}")


def _init(options: argparse.Namespace) -> None:
    path = _propose(options)
    print(f"next: {_train_command(options)} {shlex.quote(str(path))}")


def _train_command(options: argparse.Namespace) -> str:
    return f"{options.prog} {'train' if options.prog == 'offramp' else 'run'}"


def _propose(options: argparse.Namespace) -> Path:
    """Write a proposed recipe for the user's data and return its path."""
    with interrupt.deferred():
        from training.init.command import recipe_file, write_proposal

    is_init = options.command == "init"
    path: Path = (options.output if is_init else None) or recipe_file(options.data, options.name)
    if not is_init and options.resume:
        if not path.is_file():
            raise RecipeError(f"--resume: expected the recipe {path} of an earlier run, got no such file")
    else:
        write_proposal(
            options.data,
            path,
            name=options.name,
            minutes=DEFAULT_MINUTES if options.minutes is None else options.minutes,
            allow_overlap=options.allow_overlap,
            force=is_init and options.force,
            train=_train_command(options),
            say=print_to_stderr,
        )
    return path


def _run(options: argparse.Namespace) -> None:
    run_options.check(options)
    if options.stop_with_stdin:
        interrupt.stop_with_stdin()
    if options.data is not None:
        options.recipe = str(_propose(options))
    with interrupt.deferred():
        from training.recipe.recipe import load_recipe

    recipe = load_recipe(options.recipe, run_options.overrides(options))
    # PyTorch takes seconds to import; a mistake in the command or the recipe should not wait for it.
    with interrupt.deferred():
        from training.born_again.progress import CombinedProgress, ProgressBar
        from training.pipeline.events import Events
        from training.pipeline.folder import RunFolder
        from training.pipeline.run import run

    folder = RunFolder(run_options.output(options), allow_other_precision=options.allow_other_precision)
    events = Events(options.events) if options.events is not None else None
    progress = ProgressBar() if events is None else CombinedProgress(ProgressBar(), events)
    record, did_run = run(
        recipe,
        run_options.recipe_name(options),
        folder,
        options.model_repository,
        progress,
        resume=options.resume,
        max_memory_bytes=options.max_memory_bytes,
    )
    if events is not None:
        events.published(record, folder.report_path.resolve())
    what = f"{record.model} version {record.version}, generation {record.chosen_generation}: {record.summary}"
    where = f"{record.published}, report: {folder.report_path.resolve()}"
    print(f"published {what}: {where}" if did_run else f"nothing to do, already published {what}: {where}")


def _retarget(options: argparse.Namespace) -> None:
    from training.release.origin import OwnData
    from training.retarget.dry_run import dry_run
    from training.retarget.pipeline import retarget
    from training.retarget.point_changes import PointChanges

    changes = PointChanges(**{field.name: getattr(options, field.name) for field in fields(PointChanges)})
    data = OwnData.from_options(options.data, options.split_seed)
    print_progress = partial(print, file=sys.stderr, flush=True)
    subject = (options.model_repository, options.model, options.version)
    command = dry_run if options.dry_run else retarget
    print(command(*subject, changes, data, print_progress, force=options.force))


def _study(options: argparse.Namespace) -> None:
    from training.pipeline.output_folder import hold
    from training.study.conduct import conduct, networks_done, seconds_of_networks
    from training.study.page import write_study
    from training.study.plan import load_study
    from training.study.progress import StudyProgress

    study, name, folder = load_study(options.study), Path(options.study).stem, study_options.output(options)
    with hold(folder, resume=options.resume):
        progress = StudyProgress(seconds_of_networks(study), done=networks_done(folder))
        allowed = options.allow_other_precision
        record = conduct(study, name, folder, progress, allow_other_precision=allowed)
        page = write_study(options.page or Path("docs") / "studies" / name, record)
    print(f"study {name}: {len(record.networks)} networks, page: {page.resolve()}")


def _how_to_continue(options: argparse.Namespace) -> str:
    """Return the command that resumes, or that starts again if nothing was kept."""
    if options.command in {"init", "recipes", "retarget"} or (
        options.command in {"run", "train"} and not options.recipe
    ):
        return "run it again: nothing was written"
    if options.command == "attach":
        is_kept = _has_files(attach_options.output(options))
        return "resume with the same command and --resume" if is_kept else "run it again: nothing was kept"
    if options.command == "study":
        subject, output = options.study, study_options.output(options)
        more = study_options.options_to_resume(options)
    else:
        subject, output = options.recipe, run_options.output(options)
        more = run_options.options_to_resume(options)
    words = [options.command, subject, "--output", str(output), *more]
    if options.allow_other_precision:
        words.append("--allow-other-precision")
    if not _has_files(output):
        return f"begin again with: {options.prog} {shlex.join(words)}"
    return f"resume with: {options.prog} {shlex.join([*words, '--resume'])}"


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


if __name__ == "__main__":
    run_program()
