"""Whether anything grows in a real server under mixed load, on each front end.

    python -m bench.soak --output docs/reliability --page docs/reliability.md

Callers of nine kinds, good and bad (`bench.soak.load`), while version 2 of the model comes and goes by
SIGHUP. Resident memory, file descriptors and threads of the server are sampled once a second. Flat means
that the median of the last tenth of the time is within a bound of the second tenth's. Exit code 1 where
something is not flat, or anything unexpected happened to a caller.
"""

import argparse
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

from bench.serving.networks import RELEASED, load_images
from bench.soak.page import PART, SECONDS_OF_A_MINUTE, lines, plot
from bench.soak.record import Soak
from bench.soak.server import soak

FRONT_ENDS = ("native", "grpcio")
RELOAD_SECONDS = 5.0


def main() -> int:
    """Run the soak and write what it gave."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of each front end (default: 10)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="for soak.json and soak.svg"
    )
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="a page to write the figures to")
    options = parser.parse_args()
    images, seconds = load_images(), options.minutes * SECONDS_OF_A_MINUTE
    measured = Soak(
        date=time.strftime("%Y-%m-%d"),
        hardware=platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        model=RELEASED.parent.name,
        versions={
            "Python": platform.python_version(),
            **{name: metadata.version(name) for name in ("onnxruntime-gpu", "grpcio", "pygrpc-native")},
        },
        minutes=options.minutes,
        reload_seconds=RELOAD_SECONDS,
        runs=tuple(
            soak(front_end, RELEASED, images, seconds=seconds, reload_seconds=RELOAD_SECONDS)
            for front_end in FRONT_ENDS
        ),
    )
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "soak.json").write_text(measured.model_dump_json() + "\n")
    (options.output / "soak.svg").write_text(plot(measured))
    if options.page is not None:
        PART.write(options.page, lines(measured))
    faults = measured.faults()
    for fault in faults or ["no fault"]:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
