"""Estimates the memory of a run, and refuses recipes that need too much, before training.

A rough formula. It assumes FP32, although a run may use bf16:

    weights        parameters x 4 bytes x copies: 4 for the trained network (weights, gradients and two
                   moments of AdamW), and 1 for each earlier generation
    activations    batch_rows x outputs of all layers for one row x 4 bytes x 2 (values and gradients)
    data           bytes of all images x 2: as loaded and as cut
    process        memory of Python, PyTorch and onnxruntime

Parameters and outputs are counted on PyTorch's meta device, which allocates no memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.born_again.generations import choose_training_device
from training.data.splits import Dataset
from training.errors import RecipeError
from training.pipeline.from_recipe import make_network
from training.recipe.recipe import Recipe

FLOAT_BYTES = 4
COPIES_IN_TRAINING = 4
PROCESS_BYTES = 512 * 2**20
ROWS = 2
"""Rows of the forward pass that counts outputs. Batch norm needs at least 2."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated memory of a run, in bytes."""

    weights: int
    activations: int
    data: int
    process: int = PROCESS_BYTES

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.activations + self.data + self.process


def check_memory(recipe: Recipe, dataset: Dataset, max_bytes: int) -> None:
    """Raise RecipeError if a run needs more than max_bytes; on a GPU, more than the GPU's memory."""
    estimate = estimate_memory(recipe, dataset)
    device = choose_training_device()
    if device.type == "cuda":
        max_bytes = torch.cuda.get_device_properties(device).total_memory
    if estimate.total > max_bytes:
        raise RecipeError(
            f"memory: expected at most {max_bytes} bytes, got an estimate of {estimate.total}: "
            f"weights {estimate.weights}, activations of {recipe.schedule.batch_rows} rows "
            f"{estimate.activations}, data {estimate.data}, process {estimate.process}"
        )


def estimate_memory(recipe: Recipe, dataset: Dataset) -> MemoryEstimate:
    """Estimate the memory of a run; raise RecipeError if the images do not fit the architecture."""
    with torch.device("meta"):
        network = make_network(recipe, dataset)
        outputs = _outputs_per_row(network, dataset.image_shape)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    copies = COPIES_IN_TRAINING + recipe.generations.count - 1
    return MemoryEstimate(
        weights=parameters * FLOAT_BYTES * copies,
        activations=recipe.schedule.batch_rows * outputs * FLOAT_BYTES * 2,
        data=2 * sum(split.images_NCHW.nbytes for split in dataset.splits.values()),
    )


def _outputs_per_row(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Count the numbers that all layers output for one row. In-place layers count as 0."""
    count = 0

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal count
        count += 0 if getattr(layer, "inplace", False) else output.numel()

    for layer in network.modules():
        if not any(True for _ in layer.children()):
            layer.register_forward_hook(add)
    network(torch.zeros(ROWS, *image_shape, dtype=torch.uint8))
    return count // ROWS
