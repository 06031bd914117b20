"""The commands that are killed, on inputs so small that one takes seconds, and what each must end in."""

import contextlib
import io
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.__main__ import verify
from serving.repository.repository import file_digest

COMMANDS = {"run": 16, "retarget": 12, "study": 12, "attach": 8}
"""In the order in which they are killed, for a retargeting needs a run's version; and how often."""
TINY = """
model = "tiny"
threads = 1
dataset = { name = "digits", certify_rows = 200, test_rows = 360 }
architecture = { width = 4, heads = [{ grid = 4 }] }
generations = { count = 2 }
schedule = { epochs = 2, batch_rows = 128, precision = "fp32" }
operating_points.balanced = { max_accuracy_loss = 0.2, epsilon = 0.2 }
operating_points.fast = { max_accuracy_loss = 0.3, epsilon = 0.3 }
"""
STUDY_HEAD = 'rules = ["kd", "ban"]\nseeds = [0]\nrepeated_rules = 1\n[recipe]'
LAYERS = (8, 16, 64, 64, 3)
ROWS = 1200


def write_inputs(folder: Path) -> None:
    """Write a recipe, a study, a network and its rows."""
    (folder / "tiny.toml").write_text(TINY)
    (folder / "study.toml").write_text(STUDY_HEAD + TINY)
    generator = np.random.default_rng(0)
    np.savez(
        folder / "rows.npz", allow_pickle=False, x=generator.normal(0, 2, (ROWS, LAYERS[0])).astype("f4")
    )
    nodes, weights, tensor = [], [], "x"
    for number, (inputs, outputs) in enumerate(pairwise(LAYERS)):
        weight = generator.normal(0, 1 / np.sqrt(inputs), (inputs, outputs)).astype("f4")
        weights.append(numpy_helper.from_array(weight, f"weight_{number}"))
        nodes.append(helper.make_node("MatMul", [tensor, f"weight_{number}"], [f"dense_{number}"]))
        nodes.append(helper.make_node("Relu", [f"dense_{number}"], [f"relu_{number}"]))
        tensor = f"relu_{number}"
    nodes[-1] = helper.make_node("Identity", [nodes[-2].output[0]], ["logits"])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in (("x", LAYERS[0]), ("logits", LAYERS[-1]))
    ]
    graph = helper.make_graph(nodes, "table", ends[:1], ends[1:], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        folder / "network.onnx",
    )


def prepare(name: str, root: Path, reference: Path) -> None:
    """Make a command's folder; a retargeting begins with the version of the undisturbed run."""
    root.mkdir(parents=True)
    if name == "retarget":
        shutil.copytree(reference / "run" / "models", root / "models")


def command_of(name: str, root: Path, inputs: Path) -> list[str]:
    """Return a command that works below a folder, to go on where it holds something."""
    models = ("--model-repository", str(root / "models"))
    if name == "retarget":
        return ["retarget", "tiny", "1", "--epsilon", "0.25", *models]
    output = ("--output", str(root / "output"), *(["--resume"] if (root / "output").exists() else []))
    if name == "study":
        return ["study", str(inputs / "study.toml"), "--page", str(root / "page"), *output]
    if name == "run":
        return ["run", str(inputs / "tiny.toml"), *models, *output]
    given = ("--data", str(inputs / "rows.npz"), "--name", "table", "--exits", "2", "--no-augmentation")
    bounds = ("--epsilon", "0.05", "--fast-epsilon", "0.1")
    return ["attach", str(inputs / "network.onnx"), *given, *bounds, *models, *output]


def result(root: Path) -> dict[str, Any]:
    """Gather what must be equal: stages by digest, manifests and records without time and run id.

    Anything hidden, such as a draft or a lock, counts as different: it must not be left.
    """
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        place = str(path.relative_to(root))
        if path.suffix == ".onnx":
            found[place] = file_digest(path)
        elif path.name in {"manifest.json", "study.json"}:
            found[place] = {**json.loads(path.read_text()), "created": None}
            found[place].get("provenance", {}).pop("run_id", None)
        elif path.name.startswith("."):
            found[place] = "left behind"
    if (root / "models").exists():
        with contextlib.redirect_stdout(io.StringIO()):
            found["verify"] = verify(root / "models")
    return found
