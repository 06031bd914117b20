"""Reports a missing extra of the installation in one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from serving.console.command_parser import USAGE_ERROR
from serving.console.standard_streams import print_error

OWN_PACKAGES = {"offramp", "serving", "training"}


@contextmanager
def requires_extra(command: str, extra: str) -> Iterator[None]:
    """Exit with code 2 if the block imports a package that is not installed; name the extra that installs it.

    A missing module of this project is a fault, and its error is raised.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", *OWN_PACKAGES}:
            raise
        print_error(
            f'{command} needs the extra "{extra}", because {package} is not installed: '
            f'pip install "offramp[{extra}]"'
        )
        sys.exit(USAGE_ERROR)
