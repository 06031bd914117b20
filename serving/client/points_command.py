"""The client's command `points`: the current state of a model's operating points."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict

from serving.client.inference import Client
from serving.client.point_in_force import PointInForce
from serving.console.command_parser import CommandParser
from serving.console.printable import printable
from serving.console.table import table

HELP = "show the state of each operating point"
HEADER = ("point", "in force", "certificate", "evidence", "differed", "missing", "thresholds")


def add_to(command: CommandParser) -> None:
    """Add the options of `points`."""
    command.description = (
        "Show each operating point: the point whose thresholds are in force for it, its certificate, and the "
        "evidence against the certificate. Also show how many sampled rows differed from the full network, "
        "and how many are missing. A dash as a threshold means that no row leaves at this exit."
    )
    command.example = "--model fashion-mnist"
    command.add_argument("--model", required=True, metavar="NAME", help="the model's name on the server")
    command.add_argument("--json", action="store_true", help="print a JSON object for each point")
    command.set_defaults(run=show_points)


def show_points(client: Client, options: argparse.Namespace) -> int:
    """Print a table of the operating points, and below it a line for each problem."""
    points = client.points_in_force(options.model)
    if options.json:
        for name, point in points.items():
            print(json.dumps({"point": name, **asdict(point)}))
        return 0
    # `python -m serving.client` has no `reinstate`, but `python -m serving` has. `offramp` has both commands.
    server_command = options.prog.removesuffix(".client")
    print("\n".join(table(HEADER, (_cells(name, point) for name, point in points.items()))))
    for name, point in points.items():
        for problem in _problems(point, f"{options.model}/VERSION/{name} --state-dir DIR", server_command):
            print(printable(f"{name}: {problem}"))
    return 0


def _cells(name: str, point: PointInForce) -> tuple[str, ...]:
    thresholds = " ".join("-" if threshold is None else f"{threshold:.4g}" for threshold in point.thresholds)
    certificate, evidence = "not tested", "-"
    if point.verdict:
        certificate = f"{point.verdict} (at most {100 * point.epsilon:.3g} %)"
        evidence = f"{point.evidence:.3g} of {1 / point.delta:.3g}"
    differed = f"{point.shadow_differed} of {point.shadow_agreed + point.shadow_differed}"
    return name, point.in_force, certificate, evidence, differed, str(point.shadow_missing), thresholds


def _problems(point: PointInForce, scope: str, server_command: str) -> Iterator[str]:
    if point.revoked:
        yield (
            f"revoked by the {point.revoked_by}; requests for it use {point.in_force}; "
            f"to allow it again: {server_command} reinstate {scope}"
        )
    if point.verdict == "broken":
        yield "sampled rows contradict the certificate"
    if point.verdict == "suspected":
        yield (
            "the rows of one caller contradict the certificate; the server's log names the caller; "
            f"if its traffic is real: {server_command} revoke {scope}"
        )
    if point.too_many_missing:
        yield "too many sampled rows are missing: a broken certificate may go unnoticed"
