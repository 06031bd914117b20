"""A small run for tests: two short generations on digits, with every later step of a real run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from serving.repository.manifest import TensorSpec
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner
from training.architectures.deep_supervision import deep_supervision
from training.architectures.head_settings import HeadSettings
from training.architectures.network import MultiExitNetwork, NetworkOptions, PixelNormalisation
from training.exits.calibrate import calibration_temperature
from training.exits.certify import CertifiedThresholds
from training.exits.cost import measure_milliseconds
from training.exits.evaluate import Readings, cumulative, ensemble_accuracy, evaluate, outcome, read
from training.exits.goals import OperatingPointSection
from training.exits.intervals import mcnemar, paired_gain
from training.exits.thresholds import pareto_path
from training.pipeline.assessment import HeldOutResults
from training.pipeline.baselines import BACKBONE, SMALLER, SMALLER_TAUGHT
from training.pipeline.folder import BaselineRecord, RunPlan
from training.release.export import export_stages
from training.release.exported_stage import ExportedStage
from training.release.summary import (
    GenerationSummary,
    OperatingPointSummary,
    RunSummary,
    summarise_exits,
)

IMAGE_SHAPE = (1, 8, 8)
IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(-1, *IMAGE_SHAPE))
SPLIT_ROWS = {"train": 800, "temperature": 150, "tune": 247, "certify": 300, "test": 300}
PLAN = RunPlan(
    split_rows=SPLIT_ROWS,
    repeats=("rows with the image of an earlier row: 12",),
    classes=10,
    image_shape=IMAGE_SHAPE,
    parameters=4_321,
    multiply_adds=(1_500, 20_000, 30_000),
    exits_are_attached=False,
    generations=2,
    epochs=6,
    expected_seconds=80.0,
    warnings=(),
)
GOALS = {
    "exact": None,
    "balanced": OperatingPointSection(max_accuracy_loss=0.003, epsilon=0.01),
    "fast": OperatingPointSection(max_accuracy_loss=0.01, epsilon=0.08),
}


def tiny_network(seed: int, *, width: int = 6) -> MultiExitNetwork:
    torch.manual_seed(seed)
    return deep_supervision(
        PixelNormalisation([4.9], [6.0]),
        NetworkOptions(
            image_shape=IMAGE_SHAPE,
            classes=10,
            width=(width,),
            depth=(1, 1, 1),
            heads=(HeadSettings(grid=4),) * 3,
        ),
    )


def open_runner(stages: tuple[ExportedStage, ...], *, slots: int = 64) -> StageRunner:
    return StageRunner([stage.file for stage in stages], [IMAGE], CPU, slots=slots)


def random_images(seed: int, rows: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 17, (rows, *IMAGE_SHAPE), dtype=np.uint8)


@dataclass(frozen=True)
class Split:
    images_N: NDArray[np.uint8]
    truth_N: NDArray[np.int64]


def digits_splits() -> dict[str, Split]:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    parts = np.split(order, np.cumsum(list(SPLIT_ROWS.values()))[:-1])
    images = digits.images.astype(np.uint8)[:, np.newaxis]
    return {
        name: Split(images[part], digits.target[part].astype(np.int64))
        for name, part in zip(SPLIT_ROWS, parts, strict=True)
    }


def train(network: MultiExitNetwork, split: Split, epochs: int) -> None:
    images, truth = torch.from_numpy(split.images_N), torch.from_numpy(split.truth_N)
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(truth)), 64):
            loss = torch.stack([cross_entropy(logits, truth[rows]) for logits in network(images[rows])]).sum()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()


Logits = dict[str, NDArray[np.float32]]


def logits_of(network: MultiExitNetwork, splits: dict[str, Split]) -> Logits:
    """Return PyTorch's logits, for a generation that is not published."""
    network.eval()
    with torch.no_grad():
        return {name: network(torch.from_numpy(split.images_N)).numpy() for name, split in splits.items()}


def read_splits(logits: Logits, splits: dict[str, Split]) -> tuple[list[float], dict[str, Readings]]:
    truth_N = splits["temperature"].truth_N
    temperatures = [calibration_temperature(logits_NK, truth_N) for logits_NK in logits["temperature"]]
    readings = {name: read(logits[name], splits[name].truth_N, temperatures) for name in splits}
    return temperatures, readings


def generation(number: int, readings: dict[str, Readings], before: dict[str, Readings]) -> GenerationSummary:
    tune, test = readings["tune"], readings["test"]
    return GenerationSummary(
        number=number,
        tune=tune.accuracy(-1),
        p_value=mcnemar(before["tune"].correct_EN[-1], tune.correct_EN[-1]) if before else None,
        test_E=tuple(test.accuracy(exit_number) for exit_number in range(test.exits)),
        gain=paired_gain(before["test"].correct_EN[-1], test.correct_EN[-1]) if before else None,
    )


def baseline(name: str, test: Readings) -> BaselineRecord:
    """Build a baseline with the results of exit 0."""
    early, final = test.correct_EN[0], test.correct_EN[-1]
    return BaselineRecord(
        name=name,
        parameters=1234,
        multiply_adds=5678,
        milliseconds={1: 0.25, 8: 0.5},
        accuracy=float(early.mean()),
        gained=int((final & ~early).sum()),
        lost=int((early & ~final).sum()),
        split="test",
        n=test.rows,
    )


def run(folder: Path) -> RunSummary:
    """Train, export, evaluate, calibrate, search and certify; return the summary for the report."""
    splits = digits_splits()
    first, second = tiny_network(0), tiny_network(1)
    train(first, splits["train"], epochs=3)
    train(second, splits["train"], epochs=6)
    before_logits = logits_of(first, splits)
    _, before = read_splits(before_logits, splits)
    stages = export_stages(second, folder, IMAGE_SHAPE)
    runner = open_runner(stages)
    logits = {name: evaluate(runner, split.images_N) for name, split in splits.items()}
    temperatures, readings = read_splits(logits, splits)
    cost_E = cumulative([stage.multiply_adds for stage in stages])
    path = pareto_path(readings["tune"], cost_E)

    def point(name: str, goal: OperatingPointSection | None) -> OperatingPointSummary:
        certified = CertifiedThresholds(path[0], None, ())
        if goal is not None:
            certified = goal.reach(path, readings["certify"], cost_E)
        test = outcome(readings["test"], certified.candidate.rule, cost_E)
        return OperatingPointSummary(name, goal, certified, test)

    second_train = readings["train"].accuracy(-1)
    points = tuple(point(name, goal) for name, goal in GOALS.items())
    rule = points[2].certified.candidate.rule
    return RunSummary(
        model_name="tiny-digits",
        version=1,
        published="models/tiny-digits/1",
        created="2025-01-02T03:04:05Z",
        recipe="tiny <digits>",
        settings={"dataset": "digits", "architecture": {"width": 6}, "note": "<script>"},
        dataset="digits",
        split_rows=SPLIT_ROWS,
        plan=PLAN,
        warnings=("exit 0 is hardly better than <chance>",),
        train=second_train,
        seed=1,
        generations=(generation(0, before, {}), generation(1, readings, before)),
        chosen_generation=1,
        promotion_level=0.05,
        ensemble_E=ensemble_accuracy([before_logits["test"], logits["test"]], splits["test"].truth_N),
        stages=stages,
        stage_milliseconds=measure_milliseconds(runner, (1, 8), repeats=3),
        exits=tuple(
            summarise_exits(HeldOutResults(logits["test"], readings["test"], {}), temperatures, rule)
        ),
        pareto_path=path,
        operating_points=points,
        default_operating_point="fast",
        baselines=tuple(baseline(name, readings["test"]) for name in (BACKBONE, SMALLER, SMALLER_TAUGHT)),
        hardware="a test machine",
        packages={"torch": torch.__version__},
    )
