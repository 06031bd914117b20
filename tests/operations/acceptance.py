"""Follows docs/operations.md with an installed wheel: `python -m tests.operations.acceptance`.

It works in an empty folder and with an empty home folder, and runs every command of the page except those for
Docker and Kubernetes. It needs Prometheus and a package index, and takes four minutes, because the alert
OfframpDown waits for two.
"""

import os
import sys
import tempfile
from pathlib import Path

from tests.offramp.installation import copy_sources, environment
from tests.operations.following import follow_page, prepare_home
from tests.operations.page import page_blocks
from tests.operations.terminals import Terminals

NOT_RUN = ("docker ", "kubectl ")
ALERT_SECONDS = 240.0


def main() -> None:
    """Follow the page; end with a traceback at the first command that fails."""
    with tempfile.TemporaryDirectory(prefix="offramp-operations-") as temporary:
        folder, home = Path(temporary) / "folder", Path(temporary) / "home"
        folder.mkdir()
        clone = home / "offramp"
        clone.mkdir(parents=True)
        copy_sources(clone, "models")
        prepare_home(home)
        # What `. venv/bin/activate` does in the terminals of later blocks, and the Python of this checkout.
        programs = (folder / "venv" / "bin", Path(sys.executable).resolve().parent)
        variables = {
            **environment(),
            "HOME": str(home),
            "PATH": ":".join([*map(str, programs), os.environ["PATH"]]),
        }
        with Terminals(page_blocks(), folder, variables, NOT_RUN, {}) as page:
            follow_page(page, ALERT_SECONDS, has_prometheus=True, before_prometheus=lambda: None)
        print(*sorted(path.name for path in home.iterdir()), "are in the home folder")


if __name__ == "__main__":
    main()
