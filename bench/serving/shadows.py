"""What it costs to hold certificates against what is served: throughput by the share of rows sampled.

    python -m bench.serving.shadows

The released network at `balanced` on the native front end, a server a share, all up at once and asked in
turns that rotate; ratios are medians of the rounds' own. Writes shadows.json into docs/performance, and
the table of docs/performance.md.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median, quantiles

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from bench.serving import environments, servers
from bench.serving.load import Load, LoadResult, measure
from bench.serving.networks import ROOT, load_images, prepare
from serving.client import Client
from training.reporting.markdown import WrittenPart, row, rule

OUTPUT = ROOT / "docs" / "performance"
PAGE = ROOT / "docs" / "performance.md"
PART = WrittenPart("shadows", "python -m bench.serving.shadows")
ROUNDS = 10
WINDOW_SECONDS = 0.7
SHARES = (0.0, 0.01)
LOADS = tuple(Load(rows=rows, concurrency=concurrency) for rows in (1, 8) for concurrency in (1, 8, 64))


class ShadowSample(BaseModel):
    """One run of a load on the server that samples that share."""

    model_config = ConfigDict(frozen=True)

    share: float
    load: Load
    round: int
    measured: LoadResult
    sampled: int
    """Rows sampled while it ran whose full-depth answer was computed."""
    missing: int
    """Rows sampled while it ran whose full-depth answer is missing."""


class ShadowsRecord(BaseModel):
    """All that was measured."""

    model_config = ConfigDict(frozen=True)

    samples: tuple[ShadowSample, ...]


def measure_all(rounds: int) -> ShadowsRecord:
    """Measure every share under every load, round by round."""
    samples: list[ShadowSample] = []
    with (
        tempfile.TemporaryDirectory(prefix="offramp-bench-") as name,
        tqdm(total=rounds * len(SHARES) * len(LOADS), unit="run") as bar,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        network = prepare("released", load_images(), folder)
        running = {
            share: stack.enter_context(
                servers.offramp(network, folder, settings=f"[monitor]\nshadow_share = {share}\n")
            )
            for share in SHARES
        }
        for number in range(rounds):
            turn = number % len(SHARES)
            for load in LOADS:
                for share in (*SHARES[turn:], *SHARES[:turn]):
                    server = running[share]
                    before = _sampled(server)
                    measured = measure(
                        server,
                        load,
                        network.images,
                        window_seconds=WINDOW_SECONDS,
                        operating_point="balanced",
                    )
                    computed, missing = (
                        now - then for now, then in zip(_sampled(server), before, strict=True)
                    )
                    samples.append(
                        ShadowSample(
                            share=share,
                            load=load,
                            round=number,
                            measured=measured,
                            sampled=computed,
                            missing=missing,
                        )
                    )
                    bar.update()
    return ShadowsRecord(samples=tuple(samples))


def _sampled(server: servers.RunningServer) -> tuple[int, int]:
    """Return how many rows were sampled at `balanced` so far: computed, and missing."""
    with Client(server.address) as client:
        point = client.points_in_force(server.model)["balanced"]
    return point.shadow_agreed + point.shadow_differed, point.shadow_missing


def lines(record: ShadowsRecord) -> Iterator[str]:
    """Yield the table: a line a load and share, and the mean cost."""
    yield row(
        "load", "rows sampled", "rows/s over none sampled", "middle half of rounds", "p50", "p99", "missing"
    )
    yield rule(7)
    for load in LOADS:
        for share in SHARES[1:]:
            ratios = _ratios(record, load, share, "rows_per_second")
            low, _, high = quantiles(ratios, n=4)
            of_share = [each for each in record.samples if (each.load, each.share) == (load, share)]
            sampled, missing = sum(each.sampled for each in of_share), sum(each.missing for each in of_share)
            yield row(
                f"{load.rows} row{'s' if load.rows > 1 else ''} x {load.concurrency}",
                f"{share:.0%}",
                f"{median(ratios):.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{median(_ratios(record, load, share, 'p50_milliseconds')):.2f}",
                f"{median(_ratios(record, load, share, 'p99_milliseconds')):.2f}",
                f"{missing / max(1, sampled + missing):.0%} of {sampled + missing:,}",
            )
    yield ""
    for share in SHARES[1:]:
        costs = [1 - median(_ratios(record, load, share, "rows_per_second")) for load in LOADS]
        yield f"Sampling {share:.0%} costs {mean(costs):.1%} of the throughput in the mean of the loads."


def _ratios(record: ShadowsRecord, load: Load, share: float, figure: str) -> list[float]:
    """Divide a figure by that of none sampled, round by round."""
    of_round = {
        (each.share, each.round): float(getattr(each.measured, figure))
        for each in record.samples
        if each.load == load
    }
    rounds = sorted({number for _, number in of_round})
    return [of_round[share, number] / of_round[0.0, number] for number in rounds]


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving.shadows", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default docs/performance")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"default {ROUNDS}")
    options = parser.parse_args()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    environments.make_load_generator()
    record = measure_all(options.rounds)
    (output / "shadows.json").write_text(record.model_dump_json(indent=1) + "\n")
    if output == OUTPUT:
        PART.write(PAGE, lines(record))
    print("\n".join(lines(record)))


if __name__ == "__main__":
    main()
