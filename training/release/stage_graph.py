"""The ONNX graphs of a network's stages: traced once for each structure, then filled with weights.

Tracing a stage takes 0.3 to 1 s and does not depend on the weights, so all generations of a run share it.

Shapes: `B` rows of a batch, `C H W` image.
"""

import contextlib
import copy
import functools
import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from training.architectures.network import MultiExitNetwork

_MOST_STRUCTURES = 64
"""Number of traced structures to keep. A structure has no weights."""
_EXPORTER_LOGGER = "torch.onnx._internal.exporter._registration"


class _StageGraph(nn.Module):
    """A stage with its head. The last stage returns no features."""

    def __init__(self, stage: nn.Module, head: nn.Module, *, is_last: bool) -> None:
        super().__init__()
        self.stage, self.head, self.is_last = stage, head, is_last

    def answer(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the logits, and the features for the next stage if there is one."""
        features = self.stage(features)
        logits_BK = self.head(features)
        return (logits_BK,) if self.is_last else (logits_BK, features)


class _FirstStage(_StageGraph):
    """Stage 0, which takes images."""

    def __init__(self, normalisation: nn.Module, stage: nn.Module, head: nn.Module, *, is_last: bool) -> None:
        super().__init__(stage, head, is_last=is_last)
        self.normalisation = normalisation

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, ...]:
        return self.answer(self.normalisation(images_BCHW))


class _NextStage(_StageGraph):
    """A later stage, which takes the slots to read and the features of all slots."""

    def forward(self, rows_B: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        return self.answer(features.index_select(0, rows_B))


def stage_graphs(network: MultiExitNetwork) -> Iterator[nn.Module]:
    """Yield each stage of a network in eval mode, with its head."""
    last = network.exit_count - 1
    for number, (stage, head) in enumerate(zip(network.stages, network.heads, strict=True)):
        if number == 0:
            yield _FirstStage(network.normalisation, stage, head, is_last=number == last).eval()
        else:
            yield _NextStage(stage, head, is_last=number == last).eval()


def to_onnx(graph: nn.Module, inputs: Mapping[str, Tensor], features_name: str) -> onnx.ModelProto:
    """Convert a stage to ONNX; the number of rows of every input is dynamic.

    inputs: an example of each input, by name. Networks with equal layers and weights give equal bytes.
    """
    traced = _trace(_Structure.of(graph, inputs, features_name))
    program = copy.copy(traced)
    program.model = traced.model.clone()
    names = program.model.graph.initializers
    program.apply_weights({name: tensor for name, tensor in graph.state_dict().items() if name in names})
    program.optimize()
    model = program.model_proto
    _remove_metadata(model)
    return model


@dataclass(frozen=True)
class _Structure:
    """A stage without its weights. Two structures are equal if their layers and inputs are."""

    layers: str
    inputs: tuple[tuple[str, torch.dtype, torch.Size], ...]
    features_name: str
    graph: nn.Module = field(compare=False)
    """The stage on PyTorch's device "meta", where tensors have no values."""

    @classmethod
    def of(cls, graph: nn.Module, inputs: Mapping[str, Tensor], features_name: str) -> "_Structure":
        specs = tuple((name, tensor.dtype, tensor.shape) for name, tensor in inputs.items())
        return cls(_describe(graph), specs, features_name, copy.deepcopy(graph).to("meta"))


def _describe(graph: nn.Module) -> str:
    """Describe all that a module computes with, except the values of its tensors."""
    layers = [
        (name, type(layer), {key: value for key, value in vars(layer).items() if not key.startswith("_")})
        for name, layer in graph.named_modules()
    ]
    return repr((layers, [(name, each.shape, each.dtype) for name, each in graph.state_dict().items()]))


@functools.lru_cache(_MOST_STRUCTURES)
def _trace(structure: _Structure) -> torch.onnx.ONNXProgram:
    examples = {
        name: torch.empty(shape, dtype=dtype, device="meta") for name, dtype, shape in structure.inputs
    }
    has_features = len(structure.graph(*examples.values())) > 1
    batch, slots = torch.export.Dim("batch"), torch.export.Dim("slots")
    _keep_function_table()
    with _quiet_exporter():
        program = torch.onnx.export(
            structure.graph,
            tuple(examples.values()),
            input_names=list(examples),
            output_names=["logits", *([structure.features_name] if has_features else [])],
            dynamic_shapes=tuple({0: slots if index else batch} for index in range(len(examples))),
            dynamo=True,
            external_data=False,
            verbose=False,
            optimize=False,  # depends on the weights
        )
    assert program is not None
    return program


def _remove_metadata(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata, which contains stack traces with paths of the training machine."""
    graph = model.graph
    values = (*graph.initializer, *graph.input, *graph.output, *graph.value_info)
    parts: tuple[Any, ...] = (graph, *graph.node, *values)
    for part in parts:
        del part.metadata_props[:]


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress two exporter warnings that users cannot act on."""

    def is_relevant(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    logger = logging.getLogger(_EXPORTER_LOGGER)
    logger.addFilter(is_relevant)
    try:
        with warnings.catch_warnings():
            # torch itself copies a structure that it deprecated.
            warnings.filterwarnings("ignore", r".*LeafSpec.* is deprecated", FutureWarning, "copyreg")
            yield
    finally:
        logger.removeFilter(is_relevant)


@functools.cache
def _keep_function_table() -> None:
    """Let PyTorch build its table of ONNX functions once, not in every export: 0.4 of 0.8 s for a stage.

    Does nothing in a version of PyTorch that has no such table.
    """
    with contextlib.suppress(ImportError, AttributeError):
        registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))
