"""Kill training at chosen points, resume it, and compare the result with an undisturbed run.

    python -m bench.kills --output DIR [--command run|retarget|study|attach ...] [--kills N]

Each command runs once undisturbed and lists its points. At some of these points, a process is killed and the
same command is run again. The second run must end with exit code 0 and the same result. Prints a table. Exit
code 1 if a result differs.
"""

import argparse
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.kills.commands import KILLS, arguments, prepare, result, write_inputs
from bench.kills.points import Point, choose, read_points, start
from training.reporting.markdown import header, row


def main() -> int:
    """Kill and resume, and print a line for each kill."""
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--command", action="append", choices=KILLS, help="repeatable; default: all")
    default = ", ".join(f"{name} {kills}" for name, kills in KILLS.items())
    parser.add_argument("--kills", type=int, metavar="N", help=f"kills of each command; default: {default}")
    options = parser.parse_args()
    print(header("command", "killed", "point", "resumed"))
    verdicts = []
    names, output = options.command or list(KILLS), options.output.resolve()
    for name, point, points, verdict in _kill_all(output, names, options.kills):
        print(row(f"`{name}`", str(point), f"{point.number + 1} of {points}", verdict), flush=True)
        verdicts.append(verdict)
    print(f"\n{verdicts.count('equal')} of {len(verdicts)} equal")
    return 0 if set(verdicts) == {"equal"} else 1


def _kill_all(output: Path, names: list[str], kills: int | None) -> Iterator[tuple[str, Point, int, str]]:
    """Yield the command, the point, the number of points, and the verdict of each kill."""
    undisturbed = output / "undisturbed"
    undisturbed.mkdir(parents=True)
    write_inputs(undisturbed)
    for name in names:
        root = undisturbed / name
        prepare(name, root, undisturbed)
        code = start(arguments(name, root, undisturbed), root)
        if code != 0:
            raise SystemExit(f"undisturbed {name}: exit code {code}, see {root.with_suffix('.log')}")
        points = read_points(root)
        for point in choose(points, kills or KILLS[name]):
            root = output / f"{name}-{point.number}"
            yield name, point, len(points), _kill_and_resume(name, point, root, undisturbed)


def _kill_and_resume(name: str, point: Point, root: Path, undisturbed: Path) -> str:
    """Kill a command at a point and run it again. Return "equal", or the difference."""
    prepare(name, root, undisturbed)
    code = start(arguments(name, root, undisturbed), root, kill_at=point.number)
    if code != -signal.SIGKILL:
        return f"expected a kill, got exit code {code}"
    code = start(arguments(name, root, undisturbed), root)
    if code != 0:
        return f"resumed to exit code {code}"
    expected, got = result(undisturbed / name), result(root)
    differing = sorted(key for key in expected | got if expected.get(key) != got.get(key))
    return f"differs: {', '.join(differing)}" if differing else "equal"


if __name__ == "__main__":
    sys.exit(main())
