"""How much memory a run needs, estimated before any of it is taken: refuses recipes that cannot fit.

A rough formula, all in FP32 though a run may take bf16:

    weights        parameters x 4 bytes x (4 while one network trains: weights, gradients and AdamW's two
                   moments; and 1 for each generation before it, which is kept)
    activations    batch_rows x outputs of all layers for one row x 4 bytes x 2 (values, and their gradients)
    data           bytes of all images, twice: as they came and as they were cut
    process        what Python, PyTorch and onnxruntime take by themselves

Parameters and outputs are counted on PyTorch's meta device, which has shapes and no memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.born_again.generations import choose_training_device
from training.data.splits import Dataset
from training.errors import RecipeError
from training.recipe.recipe import Recipe
from training.run.from_recipe import make_network

FLOAT_BYTES = 4
COPIES_IN_TRAINING = 4
PROCESS_BYTES = 512 * 2**20
ROWS = 2
"""Run through the network to count outputs: batch norm takes no fewer."""


@dataclass(frozen=True)
class MemoryEstimate:
    """What a run needs, in bytes."""

    weights: int
    activations: int
    data: int
    process: int = PROCESS_BYTES

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.activations + self.data + self.process


def check_memory(recipe: Recipe, dataset: Dataset, most_bytes: int) -> None:
    """Raise RecipeError where a run needs more than so much memory; on a GPU, more than that has."""
    estimate = estimate_memory(recipe, dataset)
    device = choose_training_device()
    if device.type == "cuda":
        most_bytes = torch.cuda.get_device_properties(device).total_memory
    if estimate.total > most_bytes:
        raise RecipeError(
            f"memory: expected at most {most_bytes} bytes, got an estimate of {estimate.total}: "
            f"weights {estimate.weights}, activations of {recipe.schedule.batch_rows} rows "
            f"{estimate.activations}, data {estimate.data}, process {estimate.process}"
        )


def estimate_memory(recipe: Recipe, dataset: Dataset) -> MemoryEstimate:
    """Estimate what a run needs; raise RecipeError where the images do not fit the architecture."""
    with torch.device("meta"):
        network = make_network(recipe, dataset)
        outputs = _outputs_of_a_row(network, dataset.image_shape)
    parameters = sum(each.numel() for each in network.parameters())
    copies = COPIES_IN_TRAINING + recipe.generations.count - 1
    return MemoryEstimate(
        weights=parameters * FLOAT_BYTES * copies,
        activations=recipe.schedule.batch_rows * outputs * FLOAT_BYTES * 2,
        data=2 * sum(split.images_NCHW.nbytes for split in dataset.splits.values()),
    )


def _outputs_of_a_row(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Count the numbers that all layers give for one row; those that change their input give none."""
    count = 0

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal count
        count += 0 if getattr(layer, "inplace", False) else output.numel()

    for layer in network.modules():
        if not any(True for _ in layer.children()):
            layer.register_forward_hook(add)
    network(torch.zeros(ROWS, *image_shape, dtype=torch.uint8))
    return count // ROWS
