"""The client's command `predict`: classify the rows in a file."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving.client.image_files import read_images
from serving.client.inference import Client, ModelInfo, Prediction
from serving.client.row_files import read_rows
from serving.console.command_parser import CommandParser
from serving.console.table import table
from serving.errors import InvalidRequest
from serving.exits.policy import ExitReason

HELP = "classify the rows in a file"
HEADER = ("row", "label", "confidence", "exit", "reason")


def add_to(command: CommandParser) -> None:
    """Add the options of `predict`."""
    command.description = "Classify the rows in a file and print a line for each."
    command.example = "--model digits --operating-point fast digit.npy"
    command.add_argument("--model", required=True, metavar="NAME", help="the model's name on the server")
    command.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help=".npz with an array for each input; for images also .npy of uint8, or a picture (needs Pillow)",
    )
    command.add_argument("--version", default="", metavar="N", help="a served version, if not the default")
    command.add_argument(
        "--operating-point", metavar="NAME", help="thresholds to use, such as exact, balanced or fast"
    )
    command.add_argument(
        "--threshold", type=float, metavar="X", help="smallest confidence that exits early, from 0 to 1"
    )
    command.add_argument("--max-exit", type=int, metavar="N", help="last exit to use, from 0")
    command.add_argument(
        "--synthetic", action="store_true", help="not real traffic: do not count it for certificates"
    )
    command.add_argument("--json", action="store_true", help="print a JSON object for each row")
    command.set_defaults(run=predict)


def predict(client: Client, options: argparse.Namespace) -> int:
    """Send the rows of the file and print the answers."""
    info = client.model(options.model, options.version)
    prediction = client.infer(
        options.model,
        _read_inputs(options.file, info),
        version=options.version,
        operating_point=options.operating_point,
        threshold=options.threshold,
        max_exit=options.max_exit,
        synthetic=options.synthetic,
    )
    answers = _answers(prediction, info)
    if options.json:
        lines = [json.dumps(answer) for answer in answers]
    else:
        lines = table(
            HEADER,
            (
                (
                    answer["row"],
                    answer["name"],
                    f"{answer['confidence']:.4f}",
                    f"{answer['exit']} of {info.final_exit}",
                    answer["exit_reason"],
                )
                for answer in answers
            ),
        )
    print("\n".join(lines))
    return 0


def _answers(prediction: Prediction, info: ModelInfo) -> Iterator[dict[str, Any]]:
    """Return the answer of each row; label is the number of a class, name its name."""
    for row, label in enumerate(prediction.label_N.tolist()):
        yield {
            "row": row,
            "label": label,
            "name": info.labels[label],
            "confidence": float(prediction.confidence_N[row]),
            "exit": int(prediction.exit_N[row]),
            "exit_reason": ExitReason(prediction.exit_reason_N[row]).name.lower(),
        }


def _read_inputs(path: Path, info: ModelInfo) -> Mapping[str, NDArray[Any]]:
    """Read a model's inputs from an .npz file; for a model of images also from a picture or an .npy file."""
    if path.suffix == ".npz":
        return read_rows(path, [model_input.name for model_input in info.inputs])
    try:
        row_shape = info.row_shape
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: expected .npz with an array for each input: {error}") from error
    return {info.inputs[0].name: read_images(path, row_shape)}
