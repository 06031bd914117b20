"""The commands that are killed, on inputs that take seconds, and the result to compare."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from serving.commands.verify import verify
from serving.repository.repository import file_digest

KILLS = {"run": 16, "retarget": 12, "study": 12, "attach": 8}
"""Number of kills of each command. `run` comes first, because `retarget` starts from its version."""
TINY = """
model = "tiny"
threads = 1
dataset = { name = "digits", certify_rows = 200, test_rows = 360 }
architecture = { name = "deep_supervision", width = 4, heads = [{ grid = 4 }] }
exits = { train = "joint" }
generations = { count = 2 }
schedule = { epochs = 2, batch_rows = 128, precision = "fp32" }
operating_points.balanced = { max_accuracy_loss = 0.2, epsilon = 0.2 }
operating_points.fast = { max_accuracy_loss = 0.3, epsilon = 0.3 }
"""
STUDY_HEAD = 'rules = ["kd", "ban"]\nseeds = [0]\nrepeated_rules = 1\n[recipe]'
COLUMNS, ROWS = 8, 1200


def write_inputs(folder: Path) -> None:
    """Write a recipe, a study, a network of dense layers, and its rows."""
    (folder / "tiny.toml").write_text(TINY)
    (folder / "study.toml").write_text(STUDY_HEAD + TINY)
    rows = np.random.default_rng(0).normal(0, 2, (ROWS, COLUMNS)).astype("f4")
    np.savez(folder / "rows.npz", allow_pickle=False, x=rows)
    torch.manual_seed(0)
    hidden = [nn.Linear(COLUMNS, 16), nn.ReLU(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    torch.onnx.export(
        nn.Sequential(*hidden, nn.Linear(64, 3)).eval(),
        (torch.zeros(2, COLUMNS),),
        folder / "network.onnx",
        input_names=["x"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )


def prepare(name: str, root: Path, undisturbed: Path) -> None:
    """Create the folder of a command. For `retarget`, copy the version of the undisturbed run into it."""
    root.mkdir(parents=True)
    if name == "retarget":
        shutil.copytree(undisturbed / "run" / "models", root / "models")


def arguments(name: str, root: Path, inputs: Path) -> list[str]:
    """Return a command's arguments. It resumes if its output folder exists."""
    models = ("--model-repository", str(root / "models"))
    if name == "retarget":
        return ["retarget", "tiny", "1", "--epsilon", "0.25", *models]
    output = ("--output", str(root / "output"), *(["--resume"] if (root / "output").exists() else []))
    if name == "study":
        return ["study", str(inputs / "study.toml"), "--page", str(root / "page"), *output]
    if name == "run":
        return ["run", str(inputs / "tiny.toml"), *models, *output]
    options = ("--data", str(inputs / "rows.npz"), "--name", "table", "--exits", "2", "--no-augmentation")
    bounds = ("--epsilon", "0.05", "--fast-epsilon", "0.1")
    return ["attach", str(inputs / "network.onnx"), *options, *bounds, *models, *output]


def result(root: Path) -> dict[str, Any]:
    """Return a command's results: digests of stages, records without time and run id, and hidden files."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        place = str(path.relative_to(root))
        if path.suffix == ".onnx":
            found[place] = file_digest(path)
        elif path.name in {"manifest.json", "study.json"}:
            found[place] = {**json.loads(path.read_text()), "created": None}
            found[place].get("provenance", {}).pop("run_id", None)
        elif path.name.startswith("."):  # a draft or a lock, which must be removed
            found[place] = "left behind"
    if (root / "models").exists():
        with contextlib.redirect_stdout(io.StringIO()):
            found["verify"] = verify(root / "models")
    return found
