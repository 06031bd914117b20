"""Kill training at points that were listed before, resume it, and compare what it ends in.

    python -m bench.kills --output DIR [--command run|retarget|study|attach ...] [--kills N]

An undisturbed process of each command lists its points (`points.py`). For some of them, as far apart as can
be and around the rename that publishes, a process is killed there and the command given again. It must end
with exit code 0 in exactly the versions of the undisturbed process, verified, with the same stages, and the
same manifests but for time and run id; a study with the same record. No draft and no lock may be left.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from bench.kills.commands import COMMANDS, command_of, prepare, result, write_inputs
from bench.kills.points import Point, read_trace, spread, start
from training.attach import pipeline as attach  # noqa: F401 - as these
from training.reporting.markdown import row, rule
from training.study import conduct, page  # noqa: F401


def main() -> int:
    """Print a table, and write it to the output folder; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--command", action="append", choices=COMMANDS, help="may be repeated; default: all")
    parser.add_argument("--kills", type=int, metavar="N", help=f"of each command; default: {COMMANDS}")
    options = parser.parse_args()
    counts = {
        name: options.kills or count
        for name, count in COMMANDS.items()
        if options.command is None or name in options.command
    }
    table, verdicts = [row("command", "killed", "point", "resumed"), rule(4)], []
    found = kills(options.output.resolve(), counts)
    for name, point, of, verdict in tqdm(found, total=sum(counts.values())):
        table.append(row(f"`{name}`", str(point), f"{point.number + 1} of {of}", verdict))
        verdicts.append(verdict)
    table += ["", f"{verdicts.count('equal')} of {len(verdicts)} equal"]
    (options.output / "kills.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))
    return 0 if set(verdicts) == {"equal"} else 1


def kills(output: Path, counts: dict[str, int]) -> Iterator[tuple[str, Point, int, str]]:
    """Kill and resume each command so often; yields command, point, the number of points, and the verdict."""
    reference = output / "undisturbed"
    reference.mkdir(parents=True)
    write_inputs(reference)
    for name, count in counts.items():
        points = undisturbed(name, reference)
        for point in spread(points, count):
            root = output / f"{name}-{point.number}"
            yield name, point, len(points), killed_and_resumed(name, point, root, reference)


def undisturbed(name: str, reference: Path) -> list[Point]:
    """Run a command to its end, and list its points."""
    root = reference / name
    prepare(name, root, reference)
    code = start(command_of(name, root, reference), root)
    if code != 0:
        raise SystemExit(f"undisturbed {name}: exit code {code}, see {root.with_suffix('.log')}")
    return read_trace(root)


def killed_and_resumed(name: str, point: Point, root: Path, reference: Path) -> str:
    """Kill a command at a point and give it again; returns what is wrong then, or "equal"."""
    prepare(name, root, reference)
    code = start(command_of(name, root, reference), root, kill_at=point.number)
    if code != -signal.SIGKILL:
        return f"expected a kill, got exit code {code}"
    code = start(command_of(name, root, reference), root)
    if code != 0:
        return f"resumed to exit code {code}"
    expected, got = result(reference / name), result(root)
    differing = sorted(key for key in expected | got if expected.get(key) != got.get(key))
    return f"differs: {', '.join(differing)}" if differing else "equal"


if __name__ == "__main__":
    sys.exit(main())
