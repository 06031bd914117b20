"""The command `monitoring`: write the files for Prometheus and Grafana to a folder."""

import argparse
import re
from pathlib import Path

from serving.console.command_parser import CommandParser
from serving.errors import ConfigurationError

HELP = "write alerts and a dashboard to a folder"
DEPLOY = Path(__file__).parents[2] / "deploy"
"""In the repository the folder `deploy`; the wheel has its files in `offramp/deploy`."""
CONFIGURATION = "prometheus/prometheus.yaml"
FILES = (CONFIGURATION, "prometheus/rules.yaml", "prometheus/rules_test.yaml", "grafana/offramp.json")
COMPOSE_TARGET = "server:8002"
"""The metrics port in the configuration, which deploy/compose.yaml mounts."""
DEFAULT_TARGET = "127.0.0.1:8002"


def add_to(command: CommandParser) -> None:
    """Add the arguments of `monitoring`."""
    command.description = (
        "Write a configuration of Prometheus, alerts with their tests, and a Grafana dashboard to a folder. "
        "Existing files are not replaced."
    )
    command.example = "monitoring"
    command.add_argument("folder", type=Path, metavar="FOLDER", help="created if it does not exist")
    command.add_argument(
        "--target",
        type=_target,
        default=DEFAULT_TARGET,
        metavar="HOST:PORT",
        help=f"metrics port that Prometheus scrapes (default: {DEFAULT_TARGET})",
    )
    command.set_defaults(run=lambda options: write_files(options.folder, options.target))


def write_files(folder: Path, target: str) -> int:
    """Write the files, and print the path of each; raise ConfigurationError if one exists already."""
    paths = {name: folder / Path(name).name for name in FILES}
    for path in paths.values():
        if path.exists():
            raise ConfigurationError(f"{path}: exists already; name another folder, or remove the file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            text = (DEPLOY / name).read_text(encoding="utf-8")
            if name == CONFIGURATION:
                text = text.replace(COMPOSE_TARGET, target)
            path.write_text(text, encoding="utf-8")
            print(path)
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be written: {error.strerror}") from error
    return 0


def _target(text: str) -> str:
    if not re.fullmatch(r"[\w.\[\]:-]+:[0-9]{1,5}", text):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return text
