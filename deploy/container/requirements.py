"""Print the requirements of one extra of pyproject.toml, with those of the base installation.

The Dockerfile installs them before the wheel, so their layer is rebuilt only if they change.
Usage: `python requirements.py EXTRA`, in the folder of pyproject.toml.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extra: str) -> Iterator[str]:
    """Yield the requirements of an extra; replace the project's own extras by their requirements."""
    for requirement in project["optional-dependencies"][extra]:
        own = re.fullmatch(rf"{project['name']}\[(.+)\]", requirement)
        if own is None:
            yield requirement
            continue
        for name in own[1].split(","):
            yield from requirements(project, name.strip())


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    print("\n".join([*project["dependencies"], *requirements(project, sys.argv[1])]))
