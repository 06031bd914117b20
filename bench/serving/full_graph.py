"""The full network of a version's stages as one graph, for servers without exits."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx.compose


def join_stages(paths: Sequence[Path]) -> onnx.ModelProto:
    """Join the stages into one graph without the gathers between them and without the early heads."""
    joined = _ungathered_stage(paths[0], 0)
    for number, path in enumerate(paths[1:], start=1):
        link = (f"{number - 1}/features_{number - 1}", f"{number}/features_{number - 1}")
        joined = onnx.compose.merge_models(joined, _ungathered_stage(path, number), io_map=[link])
    outputs = [value for value in joined.graph.output if value.name == f"{len(paths) - 1}/logits"]
    del joined.graph.output[:]
    joined.graph.output.extend(outputs)
    onnx.checker.check_model(joined, full_check=True)
    return joined


def _ungathered_stage(path: Path, number: int) -> onnx.ModelProto:
    """Read a stage, remove its gather, and put its number before every name."""
    model = onnx.load(path)
    graph = model.graph
    if number > 0:
        gather = next(node for node in graph.node if node.op_type == "Gather")
        features, gathered = gather.input[0], gather.output[0]
        graph.node.remove(gather)
        for node in graph.node:
            node.input[:] = [features if name == gathered else name for name in node.input]
        rows = next(value for value in graph.input if value.name == "rows")
        for node in [node for node in graph.node if "rows" in node.input]:
            graph.node.remove(node)
        graph.input.remove(rows)
    used = {name for node in graph.node for name in node.input}
    kept = [initializer for initializer in graph.initializer if initializer.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    return onnx.compose.add_prefix(model, f"{number}/")
