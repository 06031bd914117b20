"""How far inputs made for it push the cost of a row; writes the slowdown section of docs/security.md.

    python -m bench.slowdown models/fashion-mnist/2

Gradients are taken through the exported stages; every perturbed image is rounded to uint8 and judged by
onnxruntime, as it would be served. Writes slowdown.json, slowdown.svg and the part of the page between its
comments; --page writes the last two from the record that is there.
"""

import argparse
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from bench.slowdown.attacks import STEPS, UNIVERSAL_STEPS, Images, add, noise, pgd, towards_uniform, universal
from bench.slowdown.differentiable import Chain, check_parity
from bench.slowdown.page import PAGE, write
from bench.slowdown.plot import plot
from bench.slowdown.record import (
    BALANCED,
    CAPPED,
    CLEAN,
    EACH,
    FAST,
    KINDS,
    NOISE,
    UNIVERSAL,
    Reached,
    SlowdownRecord,
    read,
)
from serving.config import MonitorSettings
from serving.exits.policy import ExitRule, Integers
from serving.repository.manifest import Manifest
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from training.data.splits import Split
from training.exits.evaluate import cumulative, evaluate, outcome
from training.exits.evaluate import read as read_logits
from training.exits.intervals import mean
from training.release.origin import data_of

OUTPUT = PAGE.parent / "security"
SIZES = (2, 4, 8, 16)
ROWS = 2000
PARITY_ROWS = 256
SLOTS = 256


def main() -> None:
    """Attack, and write what was reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.slowdown", description=__doc__)
    parser.add_argument("version", nargs="?", type=Path, metavar="VERSION", help="a version's folder")
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help=f"test rows, default {ROWS}")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default docs/security")
    parser.add_argument(
        "--page", action="store_true", help="write plot and page from the record, and no more"
    )
    options = parser.parse_args()
    place = options.output / "slowdown.json"
    if not options.page:
        if options.version is None:
            parser.error("expected a version's folder, got none")
        options.output.mkdir(parents=True, exist_ok=True)
        record = measure(read_version(options.version), options.rows)
        place.write_text(record.model_dump_json(indent=1) + "\n")
    record = read(place)
    (options.output / "slowdown.svg").write_text(plot(record))
    if options.output == OUTPUT:
        write(record)


def measure(version: PublishedVersion, rows: int) -> SlowdownRecord:
    """Perturb test rows in every way and size, and judge them at every setting."""
    manifest = version.manifest
    name = manifest.inputs[0].name
    dataset = data_of(version)
    test = some(dataset.test, rows)
    runner = StageRunner(stage_files(version), manifest.inputs, CPU, slots=SLOTS)
    chain = Chain([version.stage_path(number) for number in range(len(manifest.stages))], name)
    known = np.ascontiguousarray(test.images_NCHW[:PARITY_ROWS])
    parity = check_parity(chain, known, runner.run_every_stage({name: known}))
    reached: list[Reached] = []
    with tqdm(total=1 + len(KINDS) * len(SIZES), unit="perturbation") as bar:
        for kind, size, images_NCHW in perturbed(test.images_NCHW, dataset.tune.images_NCHW, chain, manifest):
            logits_ENK = evaluate(runner, images_NCHW, input_name=name)
            reached += judge(kind, size, logits_ENK, test.truth_N, manifest)
            bar.update()
    cost_E = cumulative([stage.multiply_adds for stage in manifest.stages])
    monitor = MonitorSettings()
    return SlowdownRecord(
        model=f"{manifest.name}, version {manifest.version}",
        n=len(test),
        universal_rows=len(dataset.tune),
        steps=STEPS,
        universal_steps=UNIVERSAL_STEPS,
        parity=parity,
        cost_shares=tuple(cost / cost_E[-1] for cost in cost_E),
        baseline={name: manifest.operating_points[name].exit_shares for name in (BALANCED, FAST)},
        window_rows=monitor.drift_rows,
        alarm=monitor.drift_alarm,
        versions={
            "Python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__.partition("+")[0],
        },
        reached=tuple(reached),
    )


def some(split: Split, rows: int) -> Split:
    """Draw rows of a split by a seed."""
    sampled_N = np.sort(np.random.default_rng(0).permutation(len(split))[:rows])
    return Split(split.images_NCHW[sampled_N], split.truth_N[sampled_N], split.digest)


def perturbed(
    images_NCHW: Images, known_NCHW: Images, chain: Chain, manifest: Manifest
) -> Iterator[tuple[str, int, Images]]:
    """Yield the rows as they are, then under every perturbation of every size."""
    torch.set_num_threads(1)  # the same sums wherever it runs
    gradient = towards_uniform(chain, len(manifest.stages) - 1)
    yield CLEAN, 0, images_NCHW
    for size in SIZES:
        yield NOISE, size, noise(images_NCHW, size)
        yield UNIVERSAL, size, add(images_NCHW, universal(known_NCHW, size, gradient), size)
        yield EACH, size, pgd(images_NCHW, size, gradient)


def judge(
    kind: str, size: int, logits_ENK: np.ndarray, truth_N: Integers, manifest: Manifest
) -> Iterator[Reached]:
    """Route perturbed rows at every setting, as the server would."""
    readings = read_logits(logits_ENK, truth_N, [each.calibration_temperature for each in manifest.exits])
    cost_E = cumulative([stage.multiply_adds for stage in manifest.stages])
    for setting, rule in settings(manifest).items():
        found = outcome(readings, rule, cost_E)
        share = mean([cost / cost_E[-1] for cost in cost_E], found.exit_counts)
        yield Reached(
            kind=kind,
            size=size,
            setting=setting,
            multiply_adds_share=share.value,
            low=share.low,
            high=share.high,
            exit_shares=found.exit_shares,
            accuracy=found.accuracy,
            full_accuracy=found.final_correct / found.n,
            disagreement=found.disagreement,
        )


def settings(manifest: Manifest) -> Mapping[str, ExitRule]:
    """Return the exit rules that rows are judged under."""
    last = len(manifest.stages) - 1
    balanced, fast = (manifest.operating_points[name].thresholds for name in (BALANCED, FAST))
    return {
        BALANCED: ExitRule(balanced, max_exit=last),
        FAST: ExitRule(fast, max_exit=last),
        CAPPED: ExitRule(balanced, max_exit=1),
    }


if __name__ == "__main__":
    main()
