"""A training step as a CUDA graph: captured once, then replayed with new inputs.

A small network's step is hundreds of short kernels, and starting them one by one takes longer than running
them. A replay starts all at once. Batches of another size, and the first steps, run without a graph.
"""

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

WARM_UP_STEPS = 3
"""Steps before the capture, in which libraries allocate their workspaces and the optimizer its state."""

_ONE_CAPTURE = threading.Lock()
"""Allows one capture at a time in a process, as CUDA graphs in PyTorch require."""


class CudaStep:
    """Runs a step on a stream of its own, from named inputs on the CPU or the device."""

    def __init__(self, step: Callable[[Mapping[str, Tensor]], Tensor], device: torch.device) -> None:
        self._step = step
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._steps = 0
        self._shapes: dict[str, torch.Size] = {}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: dict[str, Tensor] = {}
        self._loss = torch.zeros(())

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the step; the returned loss is valid until the next call."""
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        self._shapes = self._shapes or shapes
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            if shapes != self._shapes or self._steps < WARM_UP_STEPS:
                loss = self._step({name: self._copied(tensor) for name, tensor in inputs.items()})
            else:
                loss = self._replay(inputs)
        self._steps += shapes == self._shapes
        current.wait_stream(self._stream)
        return loss

    def _replay(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self._graph is None:
            self._inputs = {name: self._copied(tensor).clone() for name, tensor in inputs.items()}
            graph = torch.cuda.CUDAGraph()
            # "thread_local": other threads may allocate memory meanwhile.
            with (
                _ONE_CAPTURE,
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                self._loss = self._step(self._inputs)
            self._graph = graph
        for name, tensor in inputs.items():
            self._inputs[name].copy_(_pinned(tensor), non_blocking=True)
        self._graph.replay()
        return self._loss

    def _copied(self, tensor: Tensor) -> Tensor:
        return _pinned(tensor).to(self._device, non_blocking=True)


def _pinned(tensor: Tensor) -> Tensor:
    """Copy a CPU tensor to pinned memory, from which a copy to the device does not block."""
    return tensor if tensor.is_cuda else tensor.pin_memory()
