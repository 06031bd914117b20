"""The client's commands for training jobs: recipes, train, jobs, watch, resume, cancel, logs."""

import argparse
import json
import sys

from serving.api.wire import training
from serving.client import job_lines
from serving.client.job_lines import job_line, job_row
from serving.client.training import OverrideValue, TrainingClient
from serving.client.training_display import Bars
from serving.console.command_parser import CommandParser
from serving.console.printable import printable, printable_lines
from serving.console.table import table
from serving.errors import InvalidRequest, ModelNotReady

INTERRUPTED = 130
RECIPE_HEADER = ("recipe", "description")
SETTING_HEADER = ("setting", "value", "meaning")


def add_to(commands: "argparse._SubParsersAction[CommandParser]", shared: CommandParser) -> None:
    """Add the commands; shared has the options of all commands."""

    def command(name: str, run: object, help_text: str, example: str) -> CommandParser:
        parser = commands.add_parser(
            name, parents=[shared], help=help_text, description=f"{help_text.capitalize()}.", example=example
        )
        parser.set_defaults(run=run, client=TrainingClient)
        return parser

    def command_for_job(name: str, run: object, help_text: str) -> CommandParser:
        parser = command(name, run, help_text, "3f2a9c")
        parser.add_argument("id", metavar="JOB", help="the job's id, as the list of jobs shows it")
        return parser

    recipes = command("recipes", _recipes, "list the recipes that the server can train", "digits")
    recipes.add_argument("recipe", metavar="RECIPE", nargs="?", help="show the settings of this recipe")
    train = command(
        "train", _train, "start a training job on the server", "digits --set schedule.epochs=5 --watch"
    )
    train.add_argument("recipe", metavar="RECIPE", help="a recipe that the server lists")
    train.add_argument(
        "--model", default="", metavar="NAME", help="publish under this name (default: the recipe's)"
    )
    train.add_argument(
        "--set",
        type=_override,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a setting; VALUE is JSON, or else a string; may be repeated",
    )
    train.add_argument("--serve", action="store_true", help="serve the version once it is published")
    train.add_argument("--watch", action="store_true", help="show the progress until the job ends")
    command("jobs", _jobs, "list the training jobs, the latest first", "")
    watch = command_for_job("watch", _watch, "show the progress of a job until it ends")
    watch.add_argument(
        "--after-event", type=int, default=0, metavar="N", help="skip the events up to number N"
    )
    command_for_job("resume", _resume, "continue an interrupted or failed job")
    command_for_job("cancel", _cancel, "stop a job and remove its files; its record is kept")
    command_for_job("logs", _logs, "print the output of a job until it ends")


def _override(text: str) -> tuple[str, OverrideValue]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:  # not JSON: a string without quotes
        return key, value


def _recipes(client: TrainingClient, options: argparse.Namespace) -> int:
    recipes = {recipe.name: recipe for recipe in client.recipes()}
    if options.recipe is None:
        print(
            "\n".join(table(RECIPE_HEADER, ((name, recipe.description) for name, recipe in recipes.items())))
        )
        return 0
    recipe = recipes.get(options.recipe)
    if recipe is None:
        raise InvalidRequest(f'recipe "{options.recipe}": expected one of {", ".join(recipes)}')
    print(printable(f"{recipe.name}: {recipe.description}"))
    print(printable(f"needs: {recipe.needs}"))
    settings = ((setting.key, _json(setting), " ".join(setting.help.split())) for setting in recipe.settings)
    print("\n".join(table(SETTING_HEADER, settings)))
    return 0


def _train(client: TrainingClient, options: argparse.Namespace) -> int:
    job = None
    try:
        job = client.start(options.recipe, dict(options.set), model=options.model, serve=options.serve)
        print(printable(f"job {job.id}: {job.recipe} to {job.model}"), flush=True)
        if options.watch:
            return _show(client, job.id, 0, options)
    except KeyboardInterrupt:
        if job is None:
            # `offramp jobs` lists the jobs, not `offramp jobs jobs`.
            program = options.prog.removesuffix(" jobs")
            hint = f"the job may have started; list the jobs: {program} jobs"
        else:
            hint = f"the job continues; {_commands_for(job.id, options)}"
        print(hint, file=sys.stderr)
        return INTERRUPTED
    print(_commands_for(job.id, options), file=sys.stderr)
    return 0


def _jobs(client: TrainingClient, _: argparse.Namespace) -> int:
    print("\n".join(table(job_lines.HEADER, map(job_row, client.jobs()))))
    return 0


def _watch(client: TrainingClient, options: argparse.Namespace) -> int:
    return _show(client, options.id, options.after_event, options)


def _resume(client: TrainingClient, options: argparse.Namespace) -> int:
    print(job_line(client.resume(options.id)))
    return 0


def _cancel(client: TrainingClient, options: argparse.Namespace) -> int:
    print(job_line(client.cancel(options.id)))
    return 0


def _logs(client: TrainingClient, options: argparse.Namespace) -> int:
    for text in client.logs(options.id):
        print(printable_lines(text), end="", flush=True)
    return 0


def _show(client: TrainingClient, job_id: str, after_event: int, options: argparse.Namespace) -> int:
    """Show a job's events. Return 0 if it succeeded, 1 if it ended otherwise, 130 after Ctrl-C."""
    bars = Bars()
    last_event = after_event
    try:
        for event in client.watch(job_id, after_event):
            last_event = event.number
            bars.show(event)
            if event.HasField("state"):
                bars.close()
                print(job_line(event.state.job))
                return 0 if event.state.job.state == training.SUCCEEDED else 1
    except KeyboardInterrupt:
        bars.close()
        print(f"the job continues; {_commands_for(job_id, options, last_event)}", file=sys.stderr)
        return INTERRUPTED
    except ModelNotReady:  # the connection is lost, or the server stops
        bars.close()
        print(_commands_for(job_id, options, last_event), file=sys.stderr)
        raise
    finally:
        bars.close()
    return 1


def _commands_for(job_id: str, options: argparse.Namespace, last_event: int = 0) -> str:
    """Return the commands that watch and stop a job."""
    after = f" --after-event {last_event}" if last_event else ""
    job = printable(job_id)
    return (
        f"watch it: {options.prog} watch {job}{after} --address {options.address}\n"
        f"stop it: {options.prog} cancel {job} --address {options.address}"
    )


def _json(setting: training.Setting) -> str:
    return json.dumps(_plain(setting.value) if setting.HasField("value") else None)


def _plain(value: training.Value) -> object:
    if value.HasField("list_value"):
        return [_plain(item) for item in value.list_value.values]
    kind = value.WhichOneof("kind")
    return None if kind in {None, "null_value"} else getattr(value, kind)
