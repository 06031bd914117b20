"""The networks on which servers are compared: each as a published version and as one full graph.

`released` is the version in this repository. `heavy` is untrained. It takes as long as a trained network of
the same size. Its thresholds are quantiles of its own confidences on the load's images, so that
chosen shares of the rows leave at each exit. Its answers mean nothing.

Shapes: `N` images, `E` exits, `K` classes.
"""

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from bench.publication import RELEASED
from bench.serving.full_graph import join_stages
from serving.exits.policy import ExitRule, read_exit, route
from serving.repository.manifest import Manifest, TensorSpec
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.blocks import open_stages
from serving.stages.costs import StageCosts
from serving.stages.devices import CPU
from serving.stages.runner import StageFile, StageRunner, stage_files
from training.architectures.head_settings import HeadSettings
from training.architectures.network import MultiExitNetwork, NetworkOptions, PixelNormalisation
from training.architectures.registry import build
from training.data.fashion_mnist import LABELS, load_fashion_mnist
from training.release.export import export_stages
from training.release.exported_stage import ExportedStage
from training.release.publish import publish, stage_entry

NAMES = ("released", "heavy")
IMAGES = 1024
IMAGE_SHAPE = (1, 28, 28)
IMAGE = TensorSpec(name="image", datatype="UINT8", shape=(-1, *IMAGE_SHAPE))
MAX_BATCH_SIZE = 64
HEAVY_WIDTH, HEAVY_DEPTH = (80, 144, 256, 544), (1, 2, 3, 2)
HEAVY_EXIT_SHARES = (0.60, 0.20, 0.12, 0.08)
"""Share of rows that leaves at each exit at `balanced`."""

Images = NDArray[np.uint8]
Confidences = NDArray[np.float64]


@dataclass(frozen=True)
class BenchNetwork:
    """A network in the form that each server needs."""

    name: str
    model: str
    """The name of the version's model."""
    version: PublishedVersion
    full_graph: Path
    """One ONNX file: images in, the final exit's logits out."""
    images: Path
    """The load's images, as perf_analyzer reads them."""
    exit_shares: tuple[float, ...]
    """The share of these images that leaves at each exit, at the default operating point."""


def load_images() -> Images:
    """Return the first test images of Fashion-MNIST: uint8 [N, 1, 28, 28]."""
    official_test = load_fashion_mnist(None).official_test
    assert official_test is not None
    return np.ascontiguousarray(official_test[0][:IMAGES])


def prepare(name: str, images_NCHW: Images, folder: Path) -> BenchNetwork:
    """Put a network's version into the repository `folder`/models, and the other forms beside it."""
    if name == "heavy":
        (folder / "models").mkdir(parents=True)
        exported = export_stages(_untrained(images_NCHW), folder, IMAGE.row_shape)
        heavy, paths = _heavy_manifest(exported, images_NCHW), [stage.file.path for stage in exported]
        place = publish(folder / "models", heavy.name, lambda _: heavy, paths).folder
    else:
        place = folder / "models" / RELEASED.parent.name / RELEASED.name
        shutil.copytree(RELEASED, place)
    version = read_version(place)
    manifest = version.manifest
    exits = len(manifest.exits)
    full_graph, load = folder / "full.onnx", folder / "images.json"
    onnx.save(join_stages([version.stage_path(number) for number in range(exits)]), full_graph)
    confidence_EN = _confidences(
        _logits(stage_files(version), images_NCHW), [each.calibration_temperature for each in manifest.exits]
    )
    thresholds = manifest.operating_point(manifest.default_operating_point).thresholds
    exit_N = route(confidence_EN, ExitRule(thresholds, exits - 1))
    images = [base64.b64encode(image.tobytes()).decode() for image in images_NCHW[spread_exits(exit_N)]]
    load.write_text(json.dumps({"data": [{IMAGE.name: {"b64": image}} for image in images]}))
    shares = (np.bincount(exit_N, minlength=exits) / len(exit_N)).tolist()
    return BenchNetwork(name, manifest.name, version, full_graph, load, tuple(shares))


def spread_exits(exit_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an order of the rows that spreads the rows of each exit evenly.

    Each thread of perf_analyzer sends a part of the images: consecutive ones, or every n-th one. With this
    order, the rows of each part leave at the exits in about the same shares.
    """
    position_N = np.empty(len(exit_N))
    for exit_number in np.unique(exit_N):
        (rows,) = np.nonzero(exit_N == exit_number)
        position_N[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.argsort(position_N, kind="stable")


def measure_costs(version: PublishedVersion) -> StageCosts:
    """Measure what a version's batches cost on this machine with one thread each."""
    blocks = [1] * len(version.manifest.stages)
    _, costs, _ = open_stages(version, CPU, max_batch_size=MAX_BATCH_SIZE, blocks=blocks, idle_threads=1)
    return costs.side_by_side


def _untrained(images_NCHW: Images) -> MultiExitNetwork:
    torch.manual_seed(0)
    network = build(
        "residual",
        PixelNormalisation.of(images_NCHW),
        NetworkOptions(
            image_shape=IMAGE_SHAPE,
            classes=len(LABELS),
            width=HEAVY_WIDTH,
            depth=HEAVY_DEPTH,
            heads=[HeadSettings()] * len(HEAVY_DEPTH),
        ),
    )
    with torch.no_grad():  # fits batch norm; without it all rows look alike at the last exit
        for start in range(0, 512, 64):
            network.train()(torch.from_numpy(images_NCHW[start : start + 64]))
    return network.eval()


def _heavy_manifest(exported: Sequence[ExportedStage], images_NCHW: Images) -> Manifest:
    """Return the released manifest with the stages, temperatures and thresholds of `heavy`."""
    released = read_version(RELEASED).manifest
    logits_ENK = _logits([stage.file for stage in exported], images_NCHW)
    # With the deviation of its logits as temperature, an untrained exit's confidences cover the whole range.
    temperatures = [float(logits_NK.std(axis=1).mean()) for logits_NK in logits_ENK]
    exits = tuple(
        each.model_copy(update={"calibration_temperature": temperature, "confidence": None})
        for each, temperature in zip(released.exits, temperatures, strict=True)
    )
    thresholds = _quantile_thresholds(_confidences(logits_ENK, temperatures))
    balanced = released.operating_point("balanced").model_copy(
        update={"thresholds": thresholds, "exit_shares": HEAVY_EXIT_SHARES, "certificate": None}
    )
    return released.model_copy(
        update={
            "name": "heavy",
            "version": 1,
            "stages": tuple(stage_entry(stage) for stage in exported),
            "exits": exits,
            "operating_points": {"exact": released.operating_point("exact"), "balanced": balanced},
        }
    )


def _logits(stages: Sequence[StageFile], images_NCHW: Images) -> NDArray[np.float32]:
    runner = StageRunner(stages, [IMAGE], CPU, slots=MAX_BATCH_SIZE)
    return runner.run_every_stage({IMAGE.name: images_NCHW})


def _confidences(logits_ENK: NDArray[np.float32], temperatures: Sequence[float]) -> Confidences:
    pairs = zip(logits_ENK, temperatures, strict=True)
    return np.stack([read_exit(logits_NK, temperature).confidence_B for logits_NK, temperature in pairs])


def _quantile_thresholds(confidence_EN: Confidences) -> tuple[float, ...]:
    """Return thresholds at which HEAVY_EXIT_SHARES of all rows leave."""
    waiting_N = np.ones(confidence_EN.shape[1], dtype=np.bool_)
    thresholds = []
    for confidence_N, share in zip(confidence_EN, HEAVY_EXIT_SHARES[:-1], strict=False):
        descending = np.sort(confidence_N[waiting_N])[::-1]
        leaving = round(share * len(waiting_N))
        thresholds.append(float(descending[leaving - 1] + descending[leaving]) / 2)
        waiting_N &= confidence_N < thresholds[-1]
    return tuple(thresholds)
