"""The argument parser of every command."""

import argparse
from importlib.machinery import ModuleSpec
from typing import Any, NoReturn

from serving import __version__
from serving.console.standard_streams import ERROR_PREFIX

USAGE_ERROR = 2
VERSION_LINE = f"offramp {__version__}"


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose help ends with an example and whose errors are one line."""

    def __init__(self, *args: Any, example: str = "", **options: Any) -> None:  # noqa: ANN401 - argparse's own
        """Create a parser; example: arguments that follow the command's name in the example."""
        super().__init__(*args, **options)
        self.example = example

    def format_help(self) -> str:
        """Return the help with an example as its last line."""
        return f"{super().format_help()}\nexample: {self.prog} {self.example}".rstrip() + "\n"

    def error(self, message: str) -> NoReturn:
        """Print one line without the usage, and exit with code 2."""
        self.exit(USAGE_ERROR, f"{ERROR_PREFIX}{message}; see {self.prog} --help\n")


def module_program(spec: ModuleSpec | None) -> str:
    """Return the name of a `__main__` module's program; spec: the module's `__spec__`."""
    assert spec is not None, "only a script that is run by its path has none"
    return f"python -m {spec.parent}"


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add the option `--version`."""
    parser.add_argument(
        "--version", action="version", version=VERSION_LINE, help="print the version and exit"
    )
