"""Cost of stages: multiply-adds, parameters and milliseconds.

Multiply-adds are counted layer by layer while one row runs through the network. Batch norm counts 0, because
it folds into the convolution before it. Products outside a layer, such as a bare matmul in a forward, are not
counted.

Shapes: `C H W` image.
"""

import copy
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from serving.stages.runner import StageRun, StageRunner
from training.architectures.network import MultiExitNetwork

BATCH_ROWS = (1, 8, 32)
REPEATS = 30
_WARM_UP_REPEATS = 3

_FOLDED = (nn.BatchNorm1d, nn.BatchNorm2d)
_COUNTED = (nn.Conv2d, nn.Linear)


def multiply_adds(network: MultiExitNetwork, row_shape: Sequence[int]) -> tuple[int, ...]:
    """Count the multiply-adds of each stage with its head for one row; row_shape is [C, H, W].

    Raises ValueError for an unknown type of layer with parameters.
    """
    network = copy.deepcopy(network).eval()  # the hooks below must not change the caller's network
    counts = []
    with torch.no_grad():
        features = network.normalisation(_one_zero_row(network, row_shape))
        for stage, head in zip(network.stages, network.heads, strict=True):
            counter = _Counter(nn.ModuleList([stage, head]))
            features = stage(features)
            head(features)
            counts.append(counter.multiply_adds)
    return tuple(counts)


def parameters(network: MultiExitNetwork) -> tuple[int, ...]:
    """Count the parameters of each stage with its head."""
    return tuple(
        sum(parameter.numel() for module in (stage, head) for parameter in module.parameters())
        for stage, head in zip(network.stages, network.heads, strict=True)
    )


class _Counter:
    """Counts multiply-adds while the layers of a module run."""

    def __init__(self, module: nn.Module) -> None:
        self.multiply_adds = 0
        for name, layer in module.named_modules():
            if isinstance(layer, _COUNTED):
                layer.register_forward_hook(self._add)
            elif not isinstance(layer, _FOLDED) and any(True for _ in layer.parameters(recurse=False)):
                known = ", ".join(kind.__name__ for kind in (*_COUNTED, *_FOLDED))
                raise ValueError(
                    f"multiply-adds of layer {name}: expected one of {known}, got {type(layer).__name__}"
                )

    def _add(self, layer: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(layer, _COUNTED)
        # Each output element takes one product per weight of its channel.
        products_per_output = layer.weight[0].numel()
        self.multiply_adds += output.numel() * products_per_output


def _one_zero_row(network: MultiExitNetwork, row_shape: Sequence[int]) -> Tensor:
    device = next(network.parameters()).device
    return torch.zeros((1, *row_shape), dtype=torch.uint8, device=device)


def measure_milliseconds(
    runner: StageRunner, batch_rows: Sequence[int] = BATCH_ROWS, repeats: int = REPEATS
) -> dict[int, tuple[float, ...]]:
    """Measure the median milliseconds of each stage at each batch size, on the runner's device.

    Stages run in turn, so that a slow period of the machine affects all of them. Overwrites the runner's
    slots, so the runner must not serve at the same time.
    """
    if max(batch_rows) > runner.slots:
        raise ValueError(
            f"batch rows: expected at most the runner's {runner.slots} slots, got {max(batch_rows)}"
        )
    return {rows: _measure(bind_stages(runner, rows), repeats) for rows in batch_rows}


def expected_milliseconds(exit_shares: Sequence[float], stage_milliseconds: Sequence[float]) -> float:
    """Compute the mean time of a row: each stage's time, weighted by the share of rows that reach it."""
    reaching = (sum(exit_shares[number:]) for number in range(len(exit_shares)))
    return sum(share * stage for share, stage in zip(reaching, stage_milliseconds, strict=True))


def _measure(runs: Sequence[StageRun], repeats: int) -> tuple[float, ...]:
    for _ in range(_WARM_UP_REPEATS):
        time_stages(runs)
    times = [time_stages(runs) for _ in range(repeats)]
    return tuple(median(stage_times) for stage_times in zip(*times, strict=True))


def bind_stages(runner: StageRunner, rows: int) -> list[StageRun]:
    """Bind every stage to blank rows in the first slots, as the engine binds each of its blocks."""
    logits_BK = [np.empty((rows, runner.classes), np.float32) for _ in range(runner.stage_count)]
    first, *others = logits_BK
    runs = [runner.bind(0, runner.blank_inputs(rows), first, 0)]
    rows_B = {"rows": np.arange(rows)}
    return runs + [runner.bind(stage, rows_B, logits, 0) for stage, logits in enumerate(others, 1)]


def time_stages(runs: Sequence[StageRun]) -> list[float]:
    """Run the bound stages once in order; return the milliseconds of each."""
    marks = [time.perf_counter()]
    for run in runs:
        run.execute()
        marks.append(time.perf_counter())
    return [(end - start) * 1e3 for start, end in pairwise(marks)]
