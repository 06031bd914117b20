"""A training step as a CUDA graph: captured once, then replayed with new inputs.

A small network's step is hundreds of short kernels, and starting them one by one takes longer than running
them. A replay starts all at once. Batches of another size, and the first steps, run without a graph.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

WARM_UP_STEPS = 3
"""Steps before the capture, in which libraries allocate their workspaces and the optimizer its state."""


class CudaStep:
    """Runs a step on a stream of its own, from named inputs on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._steps = 0
        self._shapes: dict[str, torch.Size] = {}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: dict[str, Tensor] = {}
        self._loss = torch.zeros(())

    def run(self, step: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the step, which must be the same in every call; the loss is valid until the next call."""
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        self._shapes = self._shapes or shapes
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            if shapes != self._shapes or self._steps < WARM_UP_STEPS:
                loss = step(self._copied(inputs))
            else:
                loss = self._replay(step, inputs)
        self._steps += shapes == self._shapes
        current.wait_stream(self._stream)
        return loss

    def _replay(self, step: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        if self._graph is None:
            self._inputs = self._copied(inputs)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._loss = step(self._inputs)
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor.pin_memory(), non_blocking=True)
        self._graph.replay()
        return self._loss

    def _copied(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy to the device from pinned memory, which does not block."""
        return {
            name: tensor.pin_memory().to(self._device, non_blocking=True) for name, tensor in inputs.items()
        }
