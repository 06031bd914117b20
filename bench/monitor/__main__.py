"""What the live test of a certificate does under simulated traffic; writes a part of docs/certificates.md.

    python -m bench.monitor

Counts rows in the server's own test, server by server: false revocations, rows until a broken
certificate is revoked, and what an attacker reaches. Writes monitor.json and the part of the page
between its comments; --page writes the part from the record that is there. Takes twelve minutes of CPU
time, of two cores.
"""

import argparse
from pathlib import Path

from bench.monitor.page import PAGE, write
from bench.monitor.record import read
from bench.monitor.scenarios import scenarios
from bench.monitor.simulate import simulate

OUTPUT = PAGE.parent / "certificates"
SERVERS = 400
STAKES_SERVERS = 2_000


def main() -> None:
    """Simulate, and write what was counted."""
    parser = argparse.ArgumentParser(prog="python -m bench.monitor", description=__doc__)
    parser.add_argument("--servers", type=int, default=SERVERS, metavar="N", help=f"default {SERVERS}")
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="DIR", help="default docs/certificates"
    )
    parser.add_argument("--page", action="store_true", help="write the page from the record, and no more")
    options = parser.parse_args()
    place = options.output / "monitor.json"
    if not options.page:
        options.output.mkdir(parents=True, exist_ok=True)
        record = simulate(list(scenarios(options.servers)), stakes_servers=STAKES_SERVERS)
        place.write_text(record.model_dump_json(indent=1) + "\n")
    if options.output == OUTPUT:
        write(read(place))


if __name__ == "__main__":
    main()
