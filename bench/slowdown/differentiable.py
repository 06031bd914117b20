"""Exported stages as PyTorch computes them, so that an attack can take gradients through what is served.

Knows the few ONNX operators that the stages are made of and refuses any other; a parity check holds the
chain against onnxruntime. Knows nothing of attacks.

Shapes: `B` rows of a batch, `E` exits, `K` classes, `C H W` image.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

TOLERANCE = 1e-4
"""Largest difference of a logit from onnxruntime's, as a share of the exit's largest (at least 1)."""

Attributes = Mapping[str, Any]
Operator = Callable[[Sequence[Tensor], Attributes], Tensor]


class DifferentiableStage:
    """One stage's graph, run node by node."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        # A copy, since PyTorch wants arrays that it could write to.
        self._constants = {
            each.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(each)))
            for each in graph.initializer
        }
        self._outputs = [each.name for each in graph.output]
        self._nodes = []
        for node in graph.node:
            if node.op_type not in _OPERATORS:
                known = ", ".join(_OPERATORS)
                raise ValueError(f"{path.name}: operator: expected one of {known}, got {node.op_type}")
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            self._nodes.append((_OPERATORS[node.op_type], list(node.input), node.output[0], attributes))

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the stage's outputs by name."""
        values = {**self._constants, **inputs}
        for operator, names, result, attributes in self._nodes:
            values[result] = operator([values[name] for name in names], attributes)
        return {name: values[name] for name in self._outputs}


class Chain:
    """A version's stages, one after the other, on all rows."""

    def __init__(self, paths: Sequence[Path], input_name: str) -> None:
        self._stages = [DifferentiableStage(path) for path in paths]
        self._input_name = input_name

    def __call__(self, images_BCHW: Tensor, exits: int | None = None) -> Tensor:
        """Return the logits of the first `exits` exits (default: all), [E, B, K]; images are FP32 pixels."""
        inputs = {self._input_name: images_BCHW}
        logits = []
        for stage in self._stages[:exits]:
            outputs = stage(inputs)
            logits.append(outputs.pop("logits"))
            inputs = {"rows": torch.arange(len(images_BCHW)), **outputs}
        return torch.stack(logits)


def check_parity(chain: Chain, images_BCHW: NDArray[np.uint8], expected_EBK: NDArray[np.float32]) -> float:
    """Return the largest difference of a logit from onnxruntime's; raise ValueError where it is too large."""
    with torch.no_grad():
        got_EBK = chain(torch.from_numpy(images_BCHW.astype(np.float32))).numpy()
    for number, (expected_BK, got_BK) in enumerate(zip(expected_EBK, got_EBK, strict=True)):
        tolerance = TOLERANCE * max(1.0, float(np.abs(expected_BK).max()))
        difference = float(np.abs(expected_BK - got_BK).max())
        if not difference <= tolerance:
            raise ValueError(
                f"exit {number}: expected logits within {tolerance:.2g} of onnxruntime's, "
                f"got {difference:.2g}"
            )
    return float(np.abs(expected_EBK - got_EBK).max())


def _cast(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    if attributes["to"] != onnx.TensorProto.FLOAT:
        raise ValueError(f"Cast: expected to FLOAT, got {attributes['to']}")
    return inputs[0].to(torch.float32)


def _conv(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    top, left, bottom, right = attributes["pads"]
    if (top, left) != (bottom, right) or attributes["auto_pad"] != b"NOTSET":
        raise ValueError(f"Conv: expected equal pads on both sides, got {attributes['pads']}")
    images, weight, *bias = inputs
    return functional.conv2d(
        images,
        weight,
        bias[0] if bias else None,
        stride=attributes["strides"],
        padding=(top, left),
        dilation=attributes["dilations"],
        groups=attributes["group"],
    )


def _gemm(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    a, b, *c = inputs
    a = a.T if attributes.get("transA") else a
    b = b.T if attributes.get("transB") else b
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return product + attributes.get("beta", 1.0) * c[0] if c else product


def _reduce_mean(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    values, axes = inputs
    return values.mean(dim=axes.tolist(), keepdim=bool(attributes.get("keepdims", 1)))


def _reshape(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    values, shape = inputs
    sizes = shape.tolist()
    if not attributes.get("allowzero"):
        sizes = [values.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return values.reshape(sizes)


def _gather(inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    values, rows = inputs
    return values.index_select(attributes.get("axis", 0), rows)


_OPERATORS: dict[str, Operator] = {
    "Cast": _cast,
    "Sub": lambda inputs, _: inputs[0] - inputs[1],
    "Div": lambda inputs, _: inputs[0] / inputs[1],
    "Add": lambda inputs, _: inputs[0] + inputs[1],
    "Relu": lambda inputs, _: functional.relu(inputs[0]),
    "Conv": _conv,
    "Gemm": _gemm,
    "ReduceMean": _reduce_mean,
    "Reshape": _reshape,
    "Gather": _gather,
}
