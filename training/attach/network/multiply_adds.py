"""Counts the multiply-adds of one ONNX node from the shapes of its tensors.

Matrix products and convolutions count. Sums, normalisations, activations and look-ups count 0. Operators of
other domains are refused unless this module lists them.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from onnx import NodeProto

from training.attach.network.graph import STANDARD_DOMAINS, attributes
from training.errors import AttachError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def multiply_adds(node: NodeProto, shapes: Shapes) -> int:
    """Count a node's multiply-adds; raise AttachError for an unsupported operator."""
    is_standard = node.domain in STANDARD_DOMAINS
    counter = _COUNTERS.get(node.op_type)
    if counter is not None and (is_standard or node.domain == _FUSED_DOMAIN):
        return counter(node, shapes)
    if is_standard or (node.domain == _FUSED_DOMAIN and node.op_type in _FUSED_WITHOUT_PRODUCTS):
        return 0
    raise _unknown(node)


def _unknown(node: NodeProto) -> AttachError:
    return AttachError(
        f'node "{node.name or node.output[0]}": cannot count the multiply-adds of {node.op_type} of domain '
        f'"{node.domain}"; export with standard ONNX operators'
    )


def _convolution(node: NodeProto, shapes: Shapes) -> int:
    # Each output element is the sum of one filter's products.
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _transposed_convolution(node: NodeProto, shapes: Shapes) -> int:
    # Each input element is multiplied by all weights of its channel.
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    rows = attributes(node).get("transA", 0)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if rows else 1]


def _matrix_product(node: NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _fused_matrix_product(node: NodeProto, shapes: Shapes) -> int:
    values = attributes(node)
    if values.get("transBatchA", 0) or values.get("transBatchB", 0):
        raise _unknown(node)
    summed = shapes[node.input[0]][-2 if values.get("transA", 0) else -1]
    return math.prod(shapes[node.output[0]]) * summed


def _einsum(node: NodeProto, shapes: Shapes) -> int:
    """Count one product for each combination of indices of two operands."""
    equation = str(attributes(node)["equation"], "utf-8").replace(" ", "")
    if len(node.input) == 1:
        return 0
    if len(node.input) > 2:
        raise _unknown(node)
    sizes: dict[str, int] = {}
    for term, name in zip(equation.split("->")[0].split(","), node.input, strict=True):
        for label, size in zip(_labels(term, len(shapes[name])), shapes[name], strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return math.prod(sizes.values())


def _labels(term: str, rank: int) -> list[str]:
    """Return a label for each axis; axes of an ellipsis are numbered from the right, as they broadcast."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"...{number}" for number in range(hidden, 0, -1)), *after]


def _recurrent(node: NodeProto, shapes: Shapes) -> int:
    # X is [T, B, I] or [B, T, I]; W [D, gates * H, I] and R [D, gates * H, H] are used once per step.
    steps = math.prod(shapes[node.input[0]][:2])
    return steps * (math.prod(shapes[node.input[1]]) + math.prod(shapes[node.input[2]]))


def _attention(node: NodeProto, shapes: Shapes) -> int:
    """Count both products of scaled dot-product attention with separate queries, keys and values."""
    names = [*node.input, *[""] * 12]
    query, key, value = (shapes.get(name, ()) for name in names[:3])
    if not query or not key or not value or len(key) == 5 or _has_past(node, names):
        raise _unknown(node)
    return key[-2] * (math.prod(query) + math.prod(shapes[node.output[0]]))


def _has_past(node: NodeProto, names: Sequence[str]) -> bool:
    past_inputs = (4, 5) if node.domain in STANDARD_DOMAINS else (6, 7)
    return any(names[number] for number in past_inputs)


def _attention_with_weights(node: NodeProto, shapes: Shapes) -> int:
    """Count onnxruntime's fused attention: the product with weights [I, 3H], then both attention products."""
    names = [*node.input, *[""] * 7]
    if names[0] == "" or names[4]:
        raise _unknown(node)
    rows, weights, output = shapes[names[0]], shapes[names[1]], shapes[node.output[0]]
    return math.prod(rows[:-1]) * math.prod(weights) + 2 * rows[-2] * math.prod(output)


def _counter_of_attention(node: NodeProto, shapes: Shapes) -> int:
    return (_attention if node.domain in STANDARD_DOMAINS else _attention_with_weights)(node, shapes)


_COUNTERS: Mapping[str, Callable[[NodeProto, Shapes], int]] = {
    "Attention": _counter_of_attention,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "DeformConv": _convolution,
    "Einsum": _einsum,
    "FusedConv": _convolution,
    "FusedGemm": _gemm,
    "FusedMatMul": _fused_matrix_product,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "MatMul": _matrix_product,
    "MultiHeadAttention": _attention,
    "RNN": _recurrent,
}
_FUSED_DOMAIN = "com.microsoft"
_FUSED_WITHOUT_PRODUCTS = frozenset(
    {
        "BiasAdd",
        "BiasGelu",
        "BiasSplitGelu",
        "EmbedLayerNormalization",
        "FastGelu",
        "Gelu",
        "QuickGelu",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
"""Operators into which onnxruntime fuses sums, normalisations and activations."""
