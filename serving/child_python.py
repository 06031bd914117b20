"""The command that runs a module of this project in a separate Python process."""

import sys

_RUN = "import runpy, sys; sys.path[:] = {path!r}; runpy.run_module(sys.argv.pop(1), None, '__main__', True)"


def module_command(module: str) -> tuple[str, ...]:
    """Return a command that runs a module as `python -m` does, with the module path of this process.

    `python -m` would search the working directory first, where the user may have folders of the same names.
    """
    return (sys.executable, "-P", "-c", _RUN.format(path=sys.path), module)
