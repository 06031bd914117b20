"""The training commands of `python -m serving.client`: recipes, train, jobs, watch, resume, cancel, logs."""

import argparse
import json
import sys
from datetime import UTC, datetime

from serving.api.wire import training
from serving.client.training import OverrideValue, TrainingClient
from serving.client.training_display import Bars
from serving.console.printable import printable, printable_lines
from serving.errors import ModelNotReady

INTERRUPTED = 130


def add_to(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", shared: argparse.ArgumentParser
) -> None:
    """Add the commands; shared has the options of all commands."""

    def command(name: str, run: object, help_text: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, parents=[shared], help=help_text)
        parser.set_defaults(run=run, client=TrainingClient)
        return parser

    command("recipes", _recipes, "what the server can train")
    train = command("train", _train, "start a training job")
    train.add_argument("recipe", metavar="RECIPE")
    train.add_argument("--model", default="", metavar="NAME", help="publish under this name")
    train.add_argument("--set", type=_override, action="append", default=[], metavar="KEY=VALUE")
    train.add_argument("--serve", action="store_true", help="serve the version once it is published")
    train.add_argument("--watch", action="store_true", help="show how it goes until it is over")
    command("jobs", _jobs, "the training jobs, the latest first")
    watch = _of_a_job(command("watch", _watch, "show how a job goes until it is over"))
    watch.add_argument("--after-event", type=int, default=0, metavar="N", help="begin behind this event")
    _of_a_job(command("resume", _resume, "let an interrupted or failed job go on"))
    _of_a_job(command("cancel", _cancel, "stop a job for good; only its record stays"))
    _of_a_job(command("logs", _logs, "what a job's process writes"))


def _of_a_job(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("id", metavar="ID")
    return parser


def _override(text: str) -> tuple[str, OverrideValue]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:  # not JSON: text as it stands
        return key, value


def _recipes(client: TrainingClient, _: argparse.Namespace) -> int:
    for recipe in client.recipes():
        print(printable(f"{recipe.name}: {recipe.description}; needs: {recipe.needs}"))
        for setting in recipe.settings:
            value = _plain(setting.value) if setting.HasField("value") else None
            print(printable(f"  {setting.key}={json.dumps(value)}  {' '.join(setting.help.split())}"))
    return 0


def _train(client: TrainingClient, options: argparse.Namespace) -> int:
    job = None
    try:
        job = client.start(options.recipe, dict(options.set), model=options.model, serve=options.serve)
        print(printable(f"job {job.id}: {job.recipe} to {job.model}"), flush=True)
        if options.watch:
            return _show(client, job.id, 0, options.address)
    except KeyboardInterrupt:
        goes_on = "the job may have started; list the jobs: python -m serving.client jobs"
        if job is not None:
            goes_on = f"the job goes on; {_how_to_go_on(job.id, options.address)}"
        print(goes_on, file=sys.stderr)
        return INTERRUPTED
    print(_how_to_go_on(job.id, options.address), file=sys.stderr)
    return 0


def _jobs(client: TrainingClient, _: argparse.Namespace) -> int:
    for job in client.jobs():
        print(_line(job))
    return 0


def _watch(client: TrainingClient, options: argparse.Namespace) -> int:
    return _show(client, options.id, options.after_event, options.address)


def _resume(client: TrainingClient, options: argparse.Namespace) -> int:
    print(_line(client.resume(options.id)))
    return 0


def _cancel(client: TrainingClient, options: argparse.Namespace) -> int:
    print(_line(client.cancel(options.id)))
    return 0


def _logs(client: TrainingClient, options: argparse.Namespace) -> int:
    for text in client.logs(options.id):
        print(printable_lines(text), end="", flush=True)
    return 0


def _show(client: TrainingClient, job_id: str, after_event: int, address: str) -> int:
    """Show a job's events; 0 where it succeeded, 1 where it ended otherwise, 130 for Ctrl-C."""
    bars = Bars()
    known = after_event
    try:
        for event in client.watch(job_id, after_event):
            known = event.number
            bars.show(event)
            if event.HasField("state"):
                bars.close()
                print(_line(event.state.job))
                return 0 if event.state.job.state == training.SUCCEEDED else 1
    except KeyboardInterrupt:
        bars.close()
        print(f"the job goes on; {_how_to_go_on(job_id, address, known)}", file=sys.stderr)
        return INTERRUPTED
    except ModelNotReady:  # the connection is lost, or the server ends
        bars.close()
        print(_how_to_go_on(job_id, address, known), file=sys.stderr)
        raise
    finally:
        bars.close()
    return 1


def _how_to_go_on(job_id: str, address: str, known: int = 0) -> str:
    command = "python -m serving.client"
    after = f" --after-event {known}" if known else ""
    job = printable(job_id)
    return (
        f"watch it: {command} watch {job}{after} --address {address}\n"
        f"stop it: {command} cancel {job} --address {address}"
    )


def _line(job: training.Job) -> str:
    started = datetime.fromtimestamp(job.created_seconds, UTC).isoformat(timespec="seconds")
    words = [f"job {job.id}: {_state(job)}, {job.recipe} to {job.model}"]
    if job.HasField("version"):
        words.append(f"version {job.version}")
    if job.HasField("chosen_generation"):
        words.append(f"published generation {job.chosen_generation}")
    if job.progress.epochs:
        done = job.progress
        words.append(f"generation {done.generation}, epoch {done.epochs_done}/{done.epochs}")
    words.append(f"started {started}")
    if job.error:
        words.append(job.error)
    return printable(", ".join(words))


def _state(job: training.Job) -> str:
    return training.JobState.Name(job.state).lower()


def _plain(value: training.Value) -> object:
    if value.HasField("list_value"):
        return [_plain(each) for each in value.list_value.values]
    kind = value.WhichOneof("kind")
    return None if kind in {None, "null_value"} else getattr(value, kind)
