"""Export of a network to one ONNX file per stage, compared with the network.

Stage 0 takes uint8 images. A later stage takes `rows`, the slots of its input features, and gathers them
inside its graph. Every stage returns `logits`, then the features for the next stage. The number of rows is
the only dynamic dimension. Graphs contain no exit decisions.

Shapes: `B` rows of a batch, `N` images, `E` exits, `K` classes, `C H W` image.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from serving.files import atomic_write
from serving.repository.manifest import TensorSpec
from serving.stages.devices import CPU
from serving.stages.runner import StageFile, StageRunner
from training.architectures.network import MultiExitNetwork
from training.data.splits import Dataset
from training.errors import ExportMismatch
from training.exits import cost
from training.pipeline.assessment import EVALUATION_SLOTS, INPUT_NAME, Exported, input_spec
from training.release.exported_stage import LOGIT_TOLERANCE, ExportedStage
from training.release.stage_graph import stage_graphs, to_onnx

PARITY_BATCH_ROWS = 256

# torch.export treats a dimension of 1 as constant, and two equal dimensions as one.
_EXAMPLE_ROWS, _EXAMPLE_SLOTS = 2, 3


def export_network(network: MultiExitNetwork, dataset: Dataset, folder: Path) -> Exported:
    """Write a network's stages into a folder and compare their chain with the network.

    Raises ExportMismatch if a logit on the temperature split differs beyond LOGIT_TOLERANCE.
    """
    stages = export_stages(network, folder, dataset.image_shape, input_name=INPUT_NAME)
    files = [stage.file for stage in stages]
    runner = StageRunner(files, [input_spec(dataset)], CPU, slots=EVALUATION_SLOTS)
    assert_parity(network, runner, dataset.temperature.images_NCHW)
    return Exported(stages, runner)


def export_stages(
    network: MultiExitNetwork, folder: Path, image_shape: Sequence[int], *, input_name: str = "image"
) -> tuple[ExportedStage, ...]:
    """Write `stage-<k>.onnx` for each stage into a folder; image_shape is [C, H, W].

    Exports a copy in eval mode and does not change the network.
    """
    frozen = copy.deepcopy(network).cpu().eval()
    multiply_adds = cost.multiply_adds(frozen, image_shape)
    parameters = cost.parameters(frozen)
    exported = []
    features: tuple[TensorSpec, ...] = ()
    for number, graph in enumerate(stage_graphs(frozen)):
        path = folder / f"stage-{number}.onnx"
        if number == 0:
            inputs = {input_name: torch.zeros((_EXAMPLE_ROWS, *image_shape), dtype=torch.uint8)}
        else:
            inputs = {"rows": torch.arange(_EXAMPLE_ROWS)} | {
                spec.name: torch.zeros((_EXAMPLE_SLOTS, *spec.row_shape)) for spec in features
            }
        features = _write_stage(graph, inputs, f"features_{number}", path)
        exported.append(ExportedStage(StageFile(path, features), multiply_adds[number], parameters[number]))
    return tuple(exported)


def _write_stage(
    graph: nn.Module, inputs: dict[str, Tensor], features_name: str, path: Path
) -> tuple[TensorSpec, ...]:
    """Export one graph; return the specs of its features."""
    with torch.no_grad():
        _logits_BK, *features = graph(*inputs.values())
    model = to_onnx(graph, inputs, features_name)
    with atomic_write(path) as file:
        file.write(model.SerializeToString())
    return tuple(
        TensorSpec(name=features_name, datatype="FP32", shape=(-1, *tensor.shape[1:])) for tensor in features
    )


def assert_parity(network: MultiExitNetwork, runner: StageRunner, images: NDArray[np.uint8]) -> float:
    """Compare the logits of the exported stages with the network's, at every exit.

    Returns the largest difference; raises ExportMismatch if one exceeds LOGIT_TOLERANCE. Within the
    tolerance, a label can differ only if the two largest logits differ by less than twice the tolerance.
    """
    frozen = copy.deepcopy(network).eval()
    largest = 0.0
    for start in range(0, len(images), PARITY_BATCH_ROWS):
        images_B = np.ascontiguousarray(images[start : start + PARITY_BATCH_ROWS])
        expected_EBK = _network_logits(frozen, images_B)
        got_EBK = runner.run_every_stage({runner.inputs[0].name: images_B})
        if got_EBK.shape != expected_EBK.shape:
            raise ExportMismatch(
                f"exported stages: expected logits of shape {list(expected_EBK.shape)}, "
                f"got {list(got_EBK.shape)}"
            )
        for number, (expected_BK, got_BK) in enumerate(zip(expected_EBK, got_EBK, strict=True)):
            largest = max(largest, _compare_exit(number, expected_BK, got_BK, start))
    return largest


def _network_logits(network: MultiExitNetwork, images_B: NDArray[np.uint8]) -> NDArray[np.float32]:
    device = next(network.parameters()).device
    with torch.no_grad():
        logits_EBK: NDArray[np.float32] = network(torch.from_numpy(images_B).to(device)).cpu().numpy()
    return logits_EBK


def _compare_exit(
    number: int, expected_BK: NDArray[np.float32], got_BK: NDArray[np.float32], first_row: int
) -> float:
    """Compare one exit's logits on a batch; return the largest difference."""
    tolerance = LOGIT_TOLERANCE * max(1.0, float(np.abs(expected_BK).max()))
    difference_BK = np.abs(expected_BK - got_BK)
    if not (difference_BK <= tolerance).all():  # not(<=) also catches NaN
        row, label = np.unravel_index(np.argmin(difference_BK <= tolerance), difference_BK.shape)
        raise ExportMismatch(
            f"exit {number}, row {first_row + row}, logit {label}: expected {expected_BK[row, label]} within "
            f"{tolerance:.2g} as in the network, got {got_BK[row, label]} from the exported stages"
        )
    return float(difference_BK.max())
