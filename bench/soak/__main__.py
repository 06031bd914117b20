"""Check that memory, file descriptors and threads of a server do not grow under mixed load.

    python -m bench.soak

Each front end is tested in turn. Nine kinds of callers send valid and invalid requests. Every five seconds,
SIGHUP adds or removes version 2 of the model. Publishes docs/reliability/soak.json and the tables of
docs/reliability.md. Exit code 1 if a measure is not flat or a caller saw an unexpected outcome.
"""

import argparse
import sys
import time

from bench.serving.networks import RELEASED, load_images
from bench.soak.record import PUBLICATION, Soak
from bench.soak.server import soak
from training.reporting.conditions import hardware, package_versions


def main() -> int:
    """Run the soak and publish it."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes per front end (default: 10)")
    return 1 if PUBLICATION.run(parser, _measure).faults() else 0


def _measure(options: argparse.Namespace) -> Soak:
    images, seconds = load_images(), 60 * options.minutes
    return Soak(
        date=time.strftime("%Y-%m-%d"),
        hardware=hardware(),
        model=RELEASED.parent.name,
        versions=package_versions(("onnxruntime", "grpcio", "pygrpc-native")),
        minutes=options.minutes,
        runs=tuple(soak(each, RELEASED, images, seconds=seconds) for each in ("native", "grpcio")),
    )


if __name__ == "__main__":
    sys.exit(main())
