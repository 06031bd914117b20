"""Measure how far perturbed inputs raise the cost of a row: a slowdown attack on early exits.

    python -m bench.slowdown models/fashion-mnist/3

The attack is DeepSloth (Hong et al., "A Panda? No, It's a Sloth", ICLR 2021): projected gradient descent that
makes the probabilities of every early exit more equal. Gradients pass through the exported stages, run in
PyTorch. Perturbed images are rounded to uint8 and evaluated with onnxruntime. Publishes
docs/security/slowdown.json and the table of docs/security.md.

Shapes: `N` rows, `B` rows of a batch, `E` exits, `K` classes, `C H W` image.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from bench.publication import DOCS, RELEASED, Publication
from bench.serving.networks import Images
from serving.config import MonitorSettings
from serving.exits.policy import ExitRule
from serving.monitor.drift import stability_index
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from training.exits.evaluate import evaluate, outcome
from training.exits.evaluate import read as read_logits
from training.exits.intervals import mean
from training.release.origin import data_of
from training.reporting.conditions import package_versions
from training.reporting.markdown import WrittenPart, header, row
from training.reporting.numerals import percent, percent_range
from training.reporting.record import RecordPart

CLEAN, NOISE, UNIVERSAL, PER_ROW = "none", "noise", "one for all rows", "one per row"
BALANCED, FAST = POINTS = ("balanced", "fast")
SIZES = (2, 4, 8, 16)
"""Largest change of a pixel, of 255."""
ROWS, BATCH_ROWS, SLOTS = 2000, 128, 256
STEPS, UNIVERSAL_STEPS = 30, 100
PATH_LENGTH = 2.5
"""Sum of all steps, as a multiple of the size."""
TOLERANCE = 1e-4
"""Largest allowed difference from onnxruntime's logits, as a share of the largest logit (at least 1)."""

MONITOR = MonitorSettings()
"""The server's default settings of the drift alarm."""


class AttackResult(RecordPart):
    """One perturbation of one size at one operating point."""

    kind: str
    size: int
    point: str
    multiply_adds_share: float
    low: float
    high: float
    """95 % interval of the share."""
    exit_shares: tuple[float, ...]
    accuracy: float
    full_accuracy: float
    """Accuracy of the full network on the same rows."""
    disagreement: float


class SlowdownRecord(RecordPart):
    """The measurement on one version."""

    model: str
    n: int
    baseline: tuple[float, ...]
    """Exit shares of `balanced` in the manifest."""
    versions: dict[str, str]
    results: tuple[AttackResult, ...]

    def find(self, kind: str, size: int, point: str) -> AttackResult:
        """Return the result of a perturbation at a point; size 0 is no perturbation."""
        key = (kind if size else CLEAN, size, point)
        return next(each for each in self.results if (each.kind, each.size, each.point) == key)

    def drift(self, kind: str, size: int, attacked: float = 1.0) -> float:
        """Compute the drift index of `balanced` if a share of the rows is perturbed."""
        baseline_E = np.array(self.baseline)
        shares_E = np.array(self.find(kind, size, BALANCED).exit_shares)
        mixed_E = attacked * shares_E + (1 - attacked) * baseline_E
        return stability_index(np.round(MONITOR.drift_rows * mixed_E), baseline_E)

    def alarming_share(self, kind: str, size: int) -> float | None:
        """Return the smallest share of perturbed rows, in steps of 1 %, that raises the drift alarm."""
        shares = (number / 100 for number in range(1, 101))
        return next((share for share in shares if self.drift(kind, size, share) > MONITOR.drift_alarm), None)


_OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "Cast": lambda x, **_: x.to(torch.float32),
    "Sub": torch.sub,
    "Div": torch.div,
    "Add": torch.add,
    "Relu": torch.relu,
    "Conv": lambda x, weight, bias=None, *, strides, pads, dilations, group, **_: functional.conv2d(
        x, weight, bias, strides, pads[:2], dilations, group
    ),
    "Gemm": lambda x, weight, bias, **_: functional.linear(x, weight, bias),
    "AveragePool": lambda x, kernel_shape, strides, **_: functional.avg_pool2d(x, kernel_shape, strides),
    "ReduceMean": lambda x, axes, keepdims, **_: x.mean(dim=axes.tolist(), keepdim=bool(keepdims)),
    "Reshape": lambda x, shape, **_: x.reshape(shape.tolist()),
    "Gather": lambda x, rows, axis: x.index_select(axis, rows),
}
"""The operators and attributes that exported stages use. `check_parity` notices any other attribute."""


class Chain:
    """The exported stages of a version in PyTorch, run one after the other on all rows."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._graphs = [onnx.load(path).graph for path in paths]
        for path, graph in zip(paths, self._graphs, strict=True):
            for unknown in {node.op_type for node in graph.node} - set(_OPERATORS):
                known = ", ".join(_OPERATORS)
                raise ValueError(f"{path.name}: operator: expected one of {known}, got {unknown}")

    def __call__(self, images_BCHW: Tensor, exits: int | None = None) -> Tensor:
        """Return the logits of the first `exits` exits (default: all), [E, B, K]; images are FP32 pixels."""
        inputs = {self._graphs[0].input[0].name: images_BCHW}
        logits = []
        for graph in self._graphs[:exits]:
            # PyTorch needs writable arrays, hence the copies.
            constants = {each.name: onnx.numpy_helper.to_array(each).copy() for each in graph.initializer}
            values = {name: torch.from_numpy(array) for name, array in constants.items()} | inputs
            for node in graph.node:
                attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
                operands = [values[name] for name in node.input]
                values[node.output[0]] = _OPERATORS[node.op_type](*operands, **attributes)
            outputs = {each.name: values[each.name] for each in graph.output}
            logits.append(outputs.pop("logits"))
            inputs = {"rows": torch.arange(len(images_BCHW)), **outputs}
        return torch.stack(logits)

    def gradient(self, images_BCHW: Tensor) -> Tensor:
        """Return the gradient of the early exits' mean cross-entropy with uniform probabilities."""
        pixels = images_BCHW.detach().requires_grad_()
        logs_EBK = torch.log_softmax(self(pixels, len(self._graphs) - 1), dim=-1)
        loss = -logs_EBK.mean(dim=(0, 2)).sum()  # a sum over rows keeps their gradients independent
        (gradient_BCHW,) = torch.autograd.grad(loss, pixels)
        return gradient_BCHW


def check_parity(chain: Chain, images_BCHW: Images, expected_EBK: NDArray[np.float32]) -> None:
    """Raise AssertionError unless the chain's logits equal onnxruntime's within the tolerance."""
    with torch.no_grad():
        logits_EBK = chain(torch.from_numpy(images_BCHW.astype(np.float32))).numpy()
    tolerance = TOLERANCE * max(1.0, float(np.abs(expected_EBK).max()))
    np.testing.assert_allclose(logits_EBK, expected_EBK, rtol=0, atol=tolerance)


def noise(images_NCHW: Images, size: int) -> Images:
    """Add or subtract the size at every pixel, at random: a control for the attacks."""
    signs = np.random.default_rng(0).integers(0, 2, images_NCHW.shape) * 2 - 1
    return to_pixels(images_NCHW + size * signs, images_NCHW, size)


def pgd(images_NCHW: Images, size: int, chain: Chain, steps: int = STEPS) -> Images:
    """Perturb every row by projected gradient descent from a random start."""
    torch.manual_seed(0)
    perturbed = []
    for batch in np.split(images_NCHW, range(BATCH_ROWS, len(images_NCHW), BATCH_ROWS)):
        clean = torch.from_numpy(batch.astype(np.float32))
        moved = (clean + size * (2 * torch.rand_like(clean) - 1)).clamp(0, 255)
        for _ in range(steps):
            step = PATH_LENGTH * size / steps * chain.gradient(moved).sign()
            moved = torch.clamp(moved - step, clean - size, clean + size).clamp(0, 255)
        perturbed.append(moved)
    return to_pixels(torch.cat(perturbed).numpy(), images_NCHW, size)


def universal(
    images_NCHW: Images, known_NCHW: Images, size: int, chain: Chain, steps: int = UNIVERSAL_STEPS
) -> Images:
    """Add the same perturbation to every row; it is optimised on other rows, known_NCHW."""
    generator = np.random.default_rng(0)
    change = torch.zeros(known_NCHW.shape[1:])
    for step in range(steps):
        sampled_B = generator.choice(len(known_NCHW), min(BATCH_ROWS, len(known_NCHW)), replace=False)
        batch = torch.from_numpy(known_NCHW[sampled_B].astype(np.float32))
        length = PATH_LENGTH * size / 10 * (1 - step / steps)  # shrinks to 0
        change -= length * chain.gradient((batch + change).clamp(0, 255)).mean(dim=0).sign()
        change.clamp_(-size, size)
    return to_pixels(images_NCHW + change.round().numpy(), images_NCHW, size)


def to_pixels(moved_NCHW: NDArray[np.number], clean_NCHW: Images, size: int) -> Images:
    """Round to uint8 and check the largest change of a pixel."""
    pixels: Images = np.rint(moved_NCHW).clip(0, 255).astype(np.uint8)
    largest = int(np.abs(pixels.astype(np.int16) - clean_NCHW).max(initial=0))
    assert largest <= size, f"change of a pixel: expected at most {size}, got {largest}"
    return pixels


def measure(version: PublishedVersion, rows: int = ROWS) -> SlowdownRecord:
    """Perturb sampled test rows in every way and size, and evaluate them at both points."""
    torch.set_num_threads(1)  # makes sums independent of the number of cores
    manifest, dataset = version.manifest, data_of(version)
    sampled_N = np.sort(np.random.default_rng(0).permutation(len(dataset.test))[:rows])
    images_NCHW, truth_N = dataset.test.images_NCHW[sampled_N], dataset.test.truth_N[sampled_N]
    runner = StageRunner(stage_files(version), manifest.inputs, CPU, slots=SLOTS)
    chain = Chain([version.stage_path(number) for number in range(len(manifest.stages))])
    check_parity(chain, images_NCHW[:SLOTS], evaluate(runner, images_NCHW[:SLOTS]))
    perturbed = [(CLEAN, 0, images_NCHW)]
    for size in tqdm(SIZES):
        perturbed.append((NOISE, size, noise(images_NCHW, size)))
        perturbed.append((UNIVERSAL, size, universal(images_NCHW, dataset.tune.images_NCHW, size, chain)))
        perturbed.append((PER_ROW, size, pgd(images_NCHW, size, chain)))
    cost_E, results = manifest.multiply_adds, []
    temperatures = [each.calibration_temperature for each in manifest.exits]
    for kind, size, rows_NCHW in perturbed:
        readings = read_logits(evaluate(runner, rows_NCHW), truth_N, temperatures)
        for point in POINTS:
            thresholds = manifest.operating_points[point].thresholds
            counts = outcome(readings, ExitRule(thresholds, max_exit=len(thresholds)), cost_E)
            cost = mean([cost / cost_E[-1] for cost in cost_E], counts.exit_counts)
            results.append(
                AttackResult(
                    kind=kind,
                    size=size,
                    point=point,
                    multiply_adds_share=cost.value,
                    low=cost.low,
                    high=cost.high,
                    exit_shares=counts.exit_shares,
                    accuracy=counts.accuracy,
                    full_accuracy=counts.final_correct / counts.n,
                    disagreement=counts.disagreement,
                )
            )
    return SlowdownRecord(
        model=f"{manifest.name}, version {manifest.version}",
        n=len(truth_N),
        baseline=manifest.operating_points[BALANCED].exit_shares,
        versions=package_versions(("onnxruntime", "torch")),
        results=tuple(results),
    )


def lines(record: SlowdownRecord) -> Iterator[str]:
    """Yield the results for the page."""
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    alarms = [record.alarming_share(PER_ROW, size) for size in SIZES]
    shares = ["no share" if share is None else percent(share, 0) for share in alarms]
    yield (
        f"`{record.model}`; n = {record.n:,} sampled test rows. {versions}, CPU. The attack *{PER_ROW}* "
        f"raises the drift alarm of `balanced` ({MONITOR.drift_alarm:g} over {MONITOR.drift_rows:,} rows) "
        f"if it perturbs at least {' / '.join(shares)} of the rows, "
        f"at size {' / '.join(str(size) for size in SIZES)}."
    )
    yield ""
    yield header(
        "perturbation | size | `balanced`: multiply-adds (95 % interval) | times clean rows | accuracy",
        "disagreement | drift index | `fast`: multiply-adds | times clean rows | disagreement",
        "full network: accuracy",
    )
    clean_balanced, clean_fast = (record.find(CLEAN, 0, point).multiply_adds_share for point in POINTS)
    for kind, size in dict.fromkeys((each.kind, each.size) for each in record.results):
        balanced, fast = (record.find(kind, size, point) for point in POINTS)
        interval = percent_range(balanced.low, balanced.high)
        yield row(
            f"{kind} | {size} | {percent(balanced.multiply_adds_share)} ({interval})",
            f"{balanced.multiply_adds_share / clean_balanced:.1f} | {percent(balanced.accuracy)}",
            f"{percent(balanced.disagreement)} | {record.drift(kind, size):.2f}",
            f"{percent(fast.multiply_adds_share)} | {fast.multiply_adds_share / clean_fast:.1f}",
            f"{percent(fast.disagreement)} | {percent(balanced.full_accuracy)}",
        )


PUBLICATION = Publication(
    record_type=SlowdownRecord,
    path=DOCS / "security" / "slowdown.json",
    page=DOCS / "security.md",
    part=WrittenPart("slowdown", "python -m bench.slowdown"),
    lines=lines,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.slowdown", description=__doc__)
    parser.add_argument("version", nargs="?", type=Path, default=RELEASED, help="default: %(default)s")
    PUBLICATION.run(parser, lambda options: measure(read_version(options.version)))
