"""Makes one ONNX graph of a version's stages: the full network, as servers without exits run it."""

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx.compose


def join_stages(paths: Sequence[Path]) -> onnx.ModelProto:
    """Make one graph of the stages, without the gathers between them and without the early heads."""
    joined = _bare_stage(paths[0], 0)
    for number, path in enumerate(paths[1:], start=1):
        stage = _bare_stage(path, number)
        link = (f"{number - 1}/features_{number - 1}", f"{number}/features_{number - 1}")
        joined = onnx.compose.merge_models(joined, stage, io_map=[link])
    final = len(paths) - 1
    renamed = {"0/image": "image", f"{final}/logits": "logits"}
    for node in joined.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in (*joined.graph.input, *joined.graph.output):
        value.name = renamed.get(value.name, value.name)
    outputs = [value for value in joined.graph.output if value.name == "logits"]
    del joined.graph.output[:]
    joined.graph.output.extend(outputs)
    onnx.checker.check_model(joined, full_check=True)
    return joined


def _bare_stage(path: Path, number: int) -> onnx.ModelProto:
    """Read a stage, with its number before every name, that takes its rows' features as they come."""
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
