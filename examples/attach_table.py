"""Attach early exits to a tabular network: three dense layers, 40 columns, six classes.

    python -m examples.attach_table DIR --head linear

Generates 30,000 rows with scikit-learn's `make_classification`, trains the network on 10,000 of them and
writes it as ONNX without exits. Then runs `python -m training attach` on the other rows. Options after DIR
are passed to it.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import make_classification
from sklearn.neural_network import MLPClassifier

from training.attach.folder import AttachFolder
from training.attach.record import AttachRecord

ROWS, TRAIN_ROWS, COLUMNS, CLASSES, SEED = 30_000, 10_000, 40, 6, 0
HIDDEN = (256, 256)
OPSET, IR_VERSION = 17, 8


def generate_rows() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Generate rows in two clusters per class; 1 % of the labels are wrong."""
    x_NC, y_N = make_classification(
        ROWS,
        COLUMNS,
        n_informative=20,
        n_redundant=10,
        n_classes=CLASSES,
        n_clusters_per_class=2,
        flip_y=0.01,
        class_sep=1.5,
        random_state=SEED,
    )
    return x_NC.astype(np.float32), y_N.astype(np.int64)


def train(x_NC: NDArray[np.float32], y_N: NDArray[np.int64]) -> onnx.ModelProto:
    """Train the network and return it as ONNX: Gemm, Relu, Gemm, Relu, Gemm."""
    network: Any = MLPClassifier(HIDDEN, early_stopping=True, random_state=SEED).fit(x_NC, y_N)
    nodes, weights, tensor = [], [], "features"
    for number, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        names = [f"weight_{number}", f"bias_{number}"]
        weights += [
            numpy_helper.from_array(array.astype(np.float32), name)
            for array, name in zip((weight, bias), names, strict=True)
        ]
        is_last = number == len(HIDDEN)
        product = "logits" if is_last else f"dense_{number}"
        nodes.append(helper.make_node("Gemm", [tensor, *names], [product]))
        if not is_last:
            tensor = f"relu_{number}"
            nodes.append(helper.make_node("Relu", [product], [tensor]))
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", COLUMNS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        weights,
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def attach(folder: Path, name: str, *options: str) -> AttachRecord:
    """Attach exits to network.onnx with rows.npz, both in the folder; resume an earlier attempt."""
    output = folder / "attach"
    command = [sys.executable, "-m", "training", "attach", str(folder / "network.onnx")]
    command += ["--data", str(folder / "rows.npz"), "--name", name, "--output", str(output)]
    command += ["--model-repository", str(folder / "models"), *options]
    if output.exists():
        command.append("--resume")
    print(" ".join(command[1:]), flush=True)
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("attach did not finish, see above")
    record = AttachFolder(output).read_record()
    assert record is not None, "a finished attach has a record"
    return record


def show(record: AttachRecord) -> None:
    """Print a line per cut, and a line per operating point."""
    print(f"\nsplits: {record.split_rows}, {record.repeats} repeats; {record.seconds} s; {record.hardware}")
    for level in record.levels:
        assert level.agreement is not None, "exits were chosen by attach"
        assert level.leaving is not None, "exits were chosen by attach"
        print(
            f"{'exit' if level.chosen else '':<5} {level.tensor:<40} {level.cost_share:>6.1%} of the cost, "
            f"agreement on tune {level.agreement:.3f}, {level.leaving:.0%} leave"
        )
    for name, point in record.points.items():
        times = ", ".join(f"{share:.1%} at batch {batch}" for batch, share in point.time_shares.items())
        correct = f", {point.correct / record.test_rows:.1%} correct" if point.correct is not None else ""
        print(
            f"{name:<9} {point.cost_share:>6.1%} of the multiply-adds, of the milliseconds {times}; "
            f"differs on {point.disagreements} of {record.test_rows:,} test rows{correct}"
        )


def make(folder: Path) -> None:
    """Write the network, and the rows that were not used to train it."""
    x_NC, y_N = generate_rows()
    onnx.save(train(x_NC[:TRAIN_ROWS], y_N[:TRAIN_ROWS]), folder / "network.onnx")
    np.savez(folder / "rows.npz", features=x_NC[TRAIN_ROWS:], y=y_N[TRAIN_ROWS:])


def run(name: str, make: Callable[[Path], None], description: str | None) -> None:
    """Create network.onnx and rows.npz in a folder, attach exits, and print the result."""
    parser = argparse.ArgumentParser(prog=f"python -m examples.attach_{name}", description=description)
    parser.add_argument("folder", type=Path, metavar="DIR")
    arguments, options = parser.parse_known_args()
    folder: Path = arguments.folder
    if not (folder / "rows.npz").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)
    show(attach(folder, name, *options))


if __name__ == "__main__":
    run("table", make, __doc__)
