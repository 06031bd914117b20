"""The command `offramp`: the server, its client and training under one name.

Each command runs one of three programs, and the program parses the options. A program is imported only when
it runs, so the base installation can run the client without the extras.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from serving.console.command_parser import VERSION_LINE, CommandParser
from serving.console.extras import requires_extra
from serving.console.standard_streams import run_command

CANNOT_PRINT = 1
NAME = "offramp"


Run = Callable[[Sequence[str], str], NoReturn]
"""Runs a program as the whole process, with its arguments and its name in messages."""


def _load_server() -> Run:
    from serving.commands.program import run_program

    return run_program


def _load_client() -> Run:
    from serving.client.__main__ import run_program

    return run_program


def _load_training() -> Run:
    from training.__main__ import run_program

    return run_program


@dataclass(frozen=True)
class ProgramEntry:
    """A program and its commands."""

    title: str
    load: Callable[[], Run]
    extra: str
    """The extra that installs what the program's module imports; the base installation has no name."""
    commands: Mapping[str, str]
    """What each command does, by name."""


SERVER = ProgramEntry(
    "serve models",
    _load_server,
    "serving",
    {
        "serve": "serve the models of a repository over gRPC",
        "models": "list the versions in the model repository",
        "verify": "check the files of every version",
        "rollback": "serve an older version until a newer one is published",
        "remove": "move a version out of a model",
        "revoke": "stop the use of an operating point",
        "reinstate": "allow a revoked operating point again",
        "token": "make a bearer token for callers",
        "monitoring": "write alerts and a dashboard to a folder",
    },
)
CLIENT = ProgramEntry(
    "send requests to a server",
    _load_client,
    "",
    {
        "predict": "classify the rows in a file",
        "points": "show the state of each operating point",
        "health": "exit with 0 if the server accepts calls",
        "jobs": "start, list, watch and stop training jobs on a server",
    },
)
TRAINING = ProgramEntry(
    "train models",
    _load_training,
    "training",
    {
        "init": "propose a recipe for your own data",
        "train": "train a recipe, or your own data, and publish the model",
        "attach": "add early exits to a finished ONNX network",
        "retarget": "publish a version with another operating point",
        "recipes": "list the built-in recipes and their settings",
        "study": "compare rules, generations and seeds",
    },
)
JOBS = ProgramEntry(
    "training jobs on a server",
    _load_client,
    "",
    {
        "list": "list the jobs, the latest first; the default",
        "train": "start a job",
        "watch": "show the progress of a job until it ends",
        "resume": "continue an interrupted or failed job",
        "cancel": "stop a job and remove its files",
        "logs": "print the output of a job",
        "recipes": "list the recipes that the server can train",
    },
)


def main() -> None:
    """Run the command that was typed and exit with its code."""
    sys.exit(run_command(lambda: run_offramp(sys.argv[1:]), unwritten=CANNOT_PRINT))


def run_offramp(words: Sequence[str]) -> NoReturn:
    """Run a command as the whole process."""
    if words[:1] == ["jobs"]:
        _run_jobs(words[1:])
    parser = _parser(
        NAME,
        (SERVER, CLIENT, TRAINING),
        "Train classifiers with early exits, serve them over gRPC, and send requests.",
        "predict --model digits digit.npy",
    )
    name = _command(parser, words or ["--help"])
    for program in (SERVER, CLIENT, TRAINING):
        if name in program.commands:
            _run(program, f"{NAME} {name}", NAME, words)
    parser.error(f"unknown command {name!r}")


def _run_jobs(words: Sequence[str]) -> NoReturn:
    prog = f"{NAME} jobs"
    parser = _parser(
        prog, (JOBS,), "Train on a server that was started with --enable-training.", "train digits --watch"
    )
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help", "--version"}):
        words = ["list", *words]
    name = _command(parser, words)
    if name == "list":  # the client calls this command `jobs`
        _run(CLIENT, prog, NAME, ["jobs", *words[1:]])
    if name in JOBS.commands:
        _run(JOBS, f"{prog} {name}", prog, words)
    parser.error(f"unknown command {name!r}")


def _command(parser: CommandParser, words: Sequence[str]) -> str:
    """Return the first word. If it is an option, print help or version, or report an error, and exit."""
    if words[0].startswith("-"):
        parser.parse_args(words[:1])
        parser.error("expected a command")
    return words[0]


def _run(program: ProgramEntry, command: str, prog: str, words: Sequence[str]) -> NoReturn:
    """Run a command of a program."""
    with requires_extra(command, program.extra):
        run_program = program.load()
    run_program(list(words), prog)


def _parser(prog: str, programs: Sequence[ProgramEntry], description: str, example: str) -> CommandParser:
    """Build a parser for `--help` and `--version`; the help lists the commands by program."""
    lines = [description, f"Run {prog} COMMAND --help for the options of a command.", ""]
    for program in programs:
        lines += [
            f"{program.title}:",
            *(f"  {name:<10}  {summary}" for name, summary in program.commands.items()),
        ]
    parser = CommandParser(
        prog=prog,
        usage=f"{prog} [--help] [--version] COMMAND ...",
        description="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        example=example,
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=VERSION_LINE, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
