"""Compare Offramp with Triton, or with a changed Offramp.

    python -m bench.serving                         two networks, three rounds: `make bench`
    python -m bench.serving --output FILE.json --settings 'monitor.shadow_share = 0'
    python -m bench.serving --output FILE.json --checkout ../changed

Publishes docs/performance/serving.json and the tables of docs/performance.md. With `--settings` or
`--checkout`, the baseline is this checkout with default settings, and only FILE.json is written.
"""

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path

from bench.publication import ROOT
from bench.serving import environments, servers
from bench.serving.compare import Contender, compare
from bench.serving.networks import NAMES, BenchNetwork, load_images, prepare
from bench.serving.page import PUBLICATION
from bench.serving.record import Comparison
from training.reporting.conditions import hardware, package_versions

TRITON = "Triton"
RIVAL_VERSIONS = {"Triton": "2.51.0 (nvidia-pytriton 0.7.0)", "perf_analyzer": "2.41.1"}
FRONT_ENDS = ("native", "grpcio")


def main() -> None:
    """Run the comparison and publish it."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--settings", action="append", metavar="TOML", help="changed settings; repeatable")
    parser.add_argument("--checkout", type=Path, default=ROOT, metavar="DIR", help="the changed code")
    PUBLICATION.run(parser, _measure)


def _measure(options: argparse.Namespace) -> Comparison:
    if _is_change(options) and options.output is None:
        raise SystemExit("expected --output with --settings or --checkout: they are not published")
    environments.make_load_generator()
    networks = []
    for name in options.networks:
        with tempfile.TemporaryDirectory(prefix="offramp-bench-") as place, contextlib.ExitStack() as stack:
            network = prepare(name, load_images(), Path(place))
            contenders = _start_contenders(network, Path(place), options, stack)
            in_open_loop = [] if _is_change(options) else [contenders[0], contenders[-1]]
            networks.append(compare(network, contenders, options.rounds, in_open_loop))
    return Comparison(
        date=time.strftime("%Y-%m-%d"),
        hardware=hardware(),
        cores=len(os.sched_getaffinity(0)),
        versions={**package_versions(("onnxruntime", "grpcio", "pygrpc-native")), **RIVAL_VERSIONS},
        rounds=options.rounds,
        networks=tuple(networks),
    )


def _start_contenders(
    network: BenchNetwork, folder: Path, options: argparse.Namespace, stack: contextlib.ExitStack
) -> list[Contender]:
    model, code, is_change = network.model, options.checkout, _is_change(options)
    if is_change:
        offramps = {"default": servers.offramp(model, folder)}
        for each in options.settings or [""]:
            offramps[each or "changed"] = servers.offramp(model, folder, settings=each, checkout=code)
    else:
        offramps = {f"Offramp {each}": servers.offramp(model, folder, front_end=each) for each in FRONT_ENDS}
    contenders = []
    for name, offramp in offramps.items():
        server = stack.enter_context(offramp)
        for point in ("balanced", "exact"):
            baseline = None if name == "default" else f"default {point}" if is_change else TRITON
            contenders.append(Contender(f"{name} {point}", server, point, baseline))
    if not is_change:
        environments.make_triton()
        contenders.append(Contender(TRITON, stack.enter_context(servers.triton(network, folder)), None, None))
    return contenders


def _is_change(options: argparse.Namespace) -> bool:
    return bool(options.settings) or options.checkout != ROOT


if __name__ == "__main__":
    main()
