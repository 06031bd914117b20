"""The command `offramp` as a process, and the help of every command."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from offramp.__main__ import CLIENT, JOBS, SERVER, TRAINING, main
from serving import __version__

ROOT = Path(__file__).parents[2]
OFFRAMP = ("-m", "offramp")
PROGRAMS = {
    "offramp": OFFRAMP,
    "python -m serving": ("-m", "serving"),
    "python -m serving.client": ("-m", "serving.client"),
    "python -m training": ("-m", "training"),
}
COMMANDS = [
    *((name,) for program in (SERVER, CLIENT, TRAINING) for name in program.commands),
    *(("jobs", name) for name in JOBS.commands),
]
SCREEN_LINES, SCREEN_COLUMNS = 30, 80

WITHOUT = """
import sys
sys.modules[{package!r}] = None
from offramp.__main__ import main
main()
"""
"""`offramp` where a package is not installed."""


def run(*words: str, cwd: Path = ROOT, **variables: str) -> tuple[int, str, str]:
    finished = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, "COLUMNS": str(SCREEN_COLUMNS), "PYTHONPATH": str(ROOT), **variables},
    )
    return finished.returncode, finished.stdout, finished.stderr


def test_the_installed_script_is_this_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert EntryPoint("offramp", scripts["offramp"], "console_scripts").load() is main


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("jobs", "--help")], ids=" ".join)
def test_the_help_fits_on_a_screen(words: tuple[str, ...]) -> None:
    code, output, errors = run(*OFFRAMP, *words)

    lines = output.splitlines()
    assert (code, errors) == (0, "")
    assert len(lines) <= SCREEN_LINES
    assert max(map(len, lines)) <= SCREEN_COLUMNS


def test_the_help_names_every_command() -> None:
    _, output, _ = run(*OFFRAMP, "--help")
    _, jobs, _ = run(*OFFRAMP, "jobs", "--help")

    for command in COMMANDS:
        assert f"\n  {command[-1]} " in (jobs if len(command) > 1 else output)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_begins_with_what_was_typed_and_ends_with_an_example(
    words: tuple[str, ...],
) -> None:
    code, output, errors = run(*OFFRAMP, *words, "--help")

    # `list` is the default of `offramp jobs`.
    typed = " ".join(("offramp", *(word for word in words if word != "list")))
    assert (code, errors) == (0, "")
    assert output.startswith(f"usage: {typed} ")
    assert output.splitlines()[-1].startswith(f"example: {typed}")


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_every_program_prints_its_version(program: tuple[str, ...]) -> None:
    assert run(*program, "--version") == (0, f"offramp {__version__}\n", "")


@pytest.mark.parametrize(("name", "program"), PROGRAMS.items(), ids=PROGRAMS)
def test_the_help_of_every_program_ends_with_an_example(name: str, program: tuple[str, ...]) -> None:
    _, output, _ = run(*program, "--help")

    assert output.splitlines()[-1].startswith(f"example: {name} ")


@pytest.mark.parametrize(("name", "program"), PROGRAMS.items(), ids=PROGRAMS)
def test_a_usage_error_is_one_line_and_exit_code_2(name: str, program: tuple[str, ...]) -> None:
    code, output, errors = run(*program, "frobnicate")

    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("offramp: error: ")
    assert "'frobnicate'" in errors
    assert errors.endswith(f"; see {name} --help\n")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--frobnicate",), "unrecognized arguments: --frobnicate; see offramp --help"),
        (("jobs", "start"), "unknown command 'start'; see offramp jobs --help"),
        (("predict",), "the following arguments are required: --model, FILE; see offramp predict --help"),
        (("jobs", "--frobnicate"), "unrecognized arguments: --frobnicate; see offramp --help"),
        (("train", "gone"), 'recipe "gone": expected a built-in name'),
        (("verify", "gone"), "model repository gone: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, words: tuple[str, ...], error: str) -> None:
    code, output, errors = run(*OFFRAMP, *words, cwd=tmp_path)

    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"offramp: error: {error}")


def test_a_wrong_variable_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    code, output, errors = run(*OFFRAMP, "serve", cwd=tmp_path, OFFRAMP_SERVER__MAX_STREAMS="0")

    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "OFFRAMP_SERVER__MAX_STREAMS: server.max_streams: Input should be" in errors
    assert "got 0" in errors


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [
        ("onnxruntime", ("serve",), "serving"),
        ("pydantic", ("verify", "models"), "serving"),
        ("torch", ("train", "digits", "--output"), "training"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it_and_exit_code_2(
    tmp_path: Path, package: str, words: tuple[str, ...], extra: str
) -> None:
    folder = [str(tmp_path / "run")] if words[-1] == "--output" else []

    code, output, errors = run("-c", WITHOUT.format(package=package), *words, *folder)

    assert (code, output) == (2, "")
    assert errors == (
        f'offramp: error: offramp {words[0]} needs the extra "{extra}", because {package} is not installed: '
        f'pip install "offramp[{extra}]"\n'
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["onnxruntime", "pydantic", "torch"])
def test_the_client_runs_without_the_extras(package: str) -> None:
    code, _, errors = run("-c", WITHOUT.format(package=package), "health", "--address", "127.0.0.1:1")

    assert (code, errors.count("\n")) == (1, 1)
    assert errors.startswith("offramp: error: 127.0.0.1:1: ")


def test_jobs_without_a_command_lists_them() -> None:
    code, _, errors = run(*OFFRAMP, "jobs", "--address", "127.0.0.1:1")

    assert (code, errors.startswith("offramp: error: 127.0.0.1:1: ")) == (1, True)
