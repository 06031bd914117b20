"""The networks that the servers are compared on: as a published version, and as one full graph.

`released` is the version that the repository holds. `wide` and `heavy` are untrained: their time is that
of a trained network, and their thresholds are quantiles of their own confidences on the load's images,
so that stated shares of the rows leave at each exit. What those two answer means nothing.

Shapes: `N` images, `E` exits, `K` classes.
"""

import base64
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from bench.serving.full_graph import join_stages
from serving.exits.policy import ExitRule, read_exit, route
from serving.repository.manifest import (
    FORMAT_VERSION,
    DatasetProvenance,
    Exit,
    Manifest,
    OperatingPoint,
    ParetoPath,
    Provenance,
    TensorSpec,
)
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.blocks import open_stages
from serving.stages.costs import StageCosts
from serving.stages.devices import CPU
from serving.stages.runner import StageFile, StageRunner, stage_files
from training.architectures.heads import HeadSettings
from training.architectures.network import MultiExitNetwork, PixelNormalisation
from training.architectures.registry import build
from training.data.fashion_mnist import LABELS, load_fashion_mnist
from training.release.export import export_stages
from training.release.exported_stage import ExportedStage
from training.release.publish import publish, stage_entry

ROOT = Path(__file__).parent.parent.parent
RELEASED = ROOT / "models" / "fashion-mnist" / "2"
IMAGES = 1024
"""Real test images that the load is made of."""
IMAGE_SHAPE = (1, 28, 28)
SEED = 0
SHARES = {"balanced": (0.60, 0.20, 0.12, 0.08), "fast": (0.80, 0.12, 0.05, 0.03)}
"""What leaves at each exit of the two untrained networks."""


@dataclass(frozen=True)
class Shape:
    """An untrained network of four exits."""

    architecture: str
    width: tuple[int, ...]
    depth: tuple[int, ...]


UNTRAINED = {
    "wide": Shape("deep_supervision", width=(64,), depth=(1, 1, 1, 1)),
    "heavy": Shape("residual", width=(80, 144, 256, 544), depth=(1, 2, 3, 2)),
}
NAMES = ("released", *UNTRAINED)
POINTS = ("exact", "balanced", "fast")


@dataclass(frozen=True)
class BenchNetwork:
    """One network, ready for every server."""

    name: str
    version: PublishedVersion
    full_graph: Path
    """One ONNX file: images in, the final exit's logits out."""
    images: Path
    """The load's images, as perf_analyzer reads them."""
    exit_shares: Mapping[str, tuple[float, ...]]
    """For each operating point, where these images leave."""

    @property
    def manifest(self) -> Manifest:
        """The version's manifest."""
        return self.version.manifest


def load_images() -> NDArray[np.uint8]:
    """Return the first test images: uint8 [N, 1, 28, 28]."""
    official_test = load_fashion_mnist(None).official_test
    assert official_test is not None
    return np.ascontiguousarray(official_test[0][:IMAGES])


def prepare(name: str, images_NCHW: NDArray[np.uint8], folder: Path) -> BenchNetwork:
    """Put a network's version into the repository `folder`/models, and what else is needed beside it."""
    if name in UNTRAINED:
        return prepare_untrained(name, UNTRAINED[name], images_NCHW, folder)
    place = folder / "models" / RELEASED.parent.name / RELEASED.name
    shutil.copytree(RELEASED, place)
    return _prepare(name, read_version(place), images_NCHW, folder)


def prepare_untrained(name: str, shape: Shape, images_NCHW: NDArray[np.uint8], folder: Path) -> BenchNetwork:
    """Build and publish an untrained network, and put beside it what else is needed."""
    models = folder / "models"
    models.mkdir(parents=True)
    place = _publish_untrained(name, shape, images_NCHW, models)
    return _prepare(name, read_version(place), images_NCHW, folder)


def _prepare(
    name: str, version: PublishedVersion, images_NCHW: NDArray[np.uint8], folder: Path
) -> BenchNetwork:
    manifest = version.manifest
    full_graph, load = folder / "full.onnx", folder / "images.json"
    onnx.save(join_stages([version.stage_path(number) for number in range(len(manifest.stages))]), full_graph)
    confidence_EN = _confidences(
        stage_files(version), [each.calibration_temperature for each in manifest.exits], images_NCHW
    )
    exits = len(manifest.stages)
    exit_N_of = {
        point: route(confidence_EN, ExitRule(manifest.operating_point(point).thresholds, exits - 1))
        for point in POINTS
    }
    write_load(images_NCHW[evenly(exit_N_of[manifest.default_operating_point])], load)
    shares = {
        point: tuple((np.bincount(exit_N, minlength=exits) / len(exit_N)).tolist())
        for point, exit_N in exit_N_of.items()
    }
    return BenchNetwork(name, version, full_graph, load, shares)


def evenly(exit_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an order of the rows in which every stretch has each exit's rows in its share of the whole.

    perf_analyzer's threads each send a stretch or a stride of the images: in any other order, loads
    that are meant to be alike would leave at different exits.
    """
    place_N = np.empty(len(exit_N))
    for exit_number in np.unique(exit_N):
        (rows,) = np.nonzero(exit_N == exit_number)
        place_N[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.argsort(place_N, kind="stable")


def measure_costs(version: PublishedVersion) -> StageCosts:
    """Measure what a version's batches cost on this machine, with one thread each."""
    blocks = [1] * len(version.manifest.stages)
    _, costs, _ = open_stages(version, CPU, max_batch_size=64, blocks=blocks, idle_threads=1)
    return costs.side_by_side


def write_load(images_NCHW: NDArray[np.uint8], path: Path) -> None:
    """Write images as perf_analyzer's input data."""
    rows = [{"image": {"b64": base64.b64encode(image.tobytes()).decode()}} for image in images_NCHW]
    path.write_text(json.dumps({"data": rows}))


def _publish_untrained(name: str, shape: Shape, images_NCHW: NDArray[np.uint8], models: Path) -> Path:
    network = _untrained(shape, images_NCHW)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_stages(network, Path(folder), IMAGE_SHAPE)
        manifest = _manifest(name, exported, images_NCHW)
        published = publish(
            models,
            name,
            lambda number: manifest.model_copy(update={"version": number}),
            [stage.file.path for stage in exported],
        )
        return published.folder


def _logits(stages: Sequence[StageFile], images_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    spec = TensorSpec(name="image", datatype="UINT8", shape=(-1, *IMAGE_SHAPE))
    return StageRunner(stages, [spec], CPU, slots=64).run_every_stage({spec.name: images_NCHW})


def _confidences(
    stages: Sequence[StageFile], temperatures: Sequence[float], images_NCHW: NDArray[np.uint8]
) -> NDArray[np.float64]:
    return np.stack(
        [
            read_exit(logits_NK, temperature).confidence_B
            for logits_NK, temperature in zip(_logits(stages, images_NCHW), temperatures, strict=True)
        ]
    )


def _untrained(shape: Shape, images_NCHW: NDArray[np.uint8]) -> MultiExitNetwork:
    torch.manual_seed(SEED)
    network = build(
        shape.architecture,
        PixelNormalisation.of(images_NCHW),
        IMAGE_SHAPE,
        classes=len(LABELS),
        width=shape.width,
        depth=shape.depth,
        strides=(),
        heads=[HeadSettings()] * len(shape.depth),
    )
    with torch.no_grad():  # batch norm learns what passes, so that rows stay apart down to the last exit
        for start in range(0, 512, 64):
            network.train()(torch.from_numpy(images_NCHW[start : start + 64]))
    return network.eval()


def _manifest(name: str, exported: Sequence[ExportedStage], images_NCHW: NDArray[np.uint8]) -> Manifest:
    files = [stage.file for stage in exported]
    # The deviation of an untrained exit's logits spreads its confidences over the whole range.
    temperatures = [float(logits_NK.std(axis=1).mean()) for logits_NK in _logits(files, images_NCHW)]
    confidence_EN = _confidences(files, temperatures, images_NCHW)
    spent = np.cumsum([stage.multiply_adds for stage in exported])
    final_exit = len(exported) - 1
    thresholds = {"exact": (None,) * final_exit} | {
        point: _quantile_thresholds(confidence_EN, shares) for point, shares in SHARES.items()
    }
    nothing = "0" * 64
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        version=1,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        labels=LABELS,
        inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, *IMAGE_SHAPE)),),
        confidence="max_probability",
        stages=tuple(stage_entry(stage) for stage in exported),
        exits=tuple(
            Exit(
                calibration_temperature=temperature,
                accuracy=0.0,
                expected_calibration_error=0.0,
                split="untrained",
                n=len(images_NCHW),
            )
            for temperature in temperatures
        ),
        operating_points={point: _point(each, confidence_EN, spent) for point, each in thresholds.items()},
        default_operating_point="balanced",
        pareto_path=ParetoPath(split="untrained", n=len(images_NCHW), points=()),
        provenance=Provenance(
            recipe={},
            seed=SEED,
            generation=0,
            packages={},
            dataset=DatasetProvenance(
                name="fashion-mnist", digest=nothing, split_seed=0, split_digests={}, test_rows=None
            ),
        ),
    )


def _quantile_thresholds(confidence_EN: NDArray[np.float64], shares: Sequence[float]) -> tuple[float, ...]:
    """Return thresholds by which those shares of all rows leave, the first exit's first."""
    rows = confidence_EN.shape[1]
    waiting_N = np.ones(rows, dtype=np.bool_)
    thresholds = []
    for confidence_N, share in zip(confidence_EN, shares[:-1], strict=False):
        descending = np.sort(confidence_N[waiting_N])[::-1]
        leaving = round(share * rows)
        thresholds.append(float(descending[leaving - 1] + descending[leaving]) / 2)
        waiting_N &= confidence_N < thresholds[-1]
    return tuple(thresholds)


def _point(
    thresholds: tuple[float | None, ...], confidence_EN: NDArray[np.float64], spent: NDArray[np.int64]
) -> OperatingPoint:
    exits = len(confidence_EN)
    exit_N = route(confidence_EN, ExitRule(thresholds, exits - 1))
    return OperatingPoint(
        thresholds=thresholds,
        accuracy=0.0,
        disagreement=0.0,
        multiply_adds_share=float(spent[exit_N].mean() / spent[-1]),
        exit_shares=tuple(np.bincount(exit_N, minlength=exits) / len(exit_N)),
        split="untrained",
        n=len(exit_N),
        certificate=None,
    )
