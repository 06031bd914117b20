"""The command line of the client: `predict`, `points`, `health`, and the commands of training jobs."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving.client import training_commands
from serving.client.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_SECONDS
from serving.client.image_files import read_images
from serving.client.inference import Client, ModelInfo
from serving.client.row_files import read_rows
from serving.console.printable import printable
from serving.console.standard_streams import complain, run_command
from serving.errors import InvalidRequest, OfframpError
from serving.exits.policy import ExitReason


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 if it succeeded, 1 if it failed."""
    options = _parser().parse_args(arguments)
    try:
        with options.client(options.address, timeout_seconds=options.timeout_seconds) as client:
            return int(options.run(client, options))
    except BrokenPipeError:
        raise
    except (OfframpError, OSError, ValueError) as error:
        complain(f"offramp: {printable(str(error))}")
        return 1


def _predict(client: Client, options: argparse.Namespace) -> int:
    info = client.model(options.model)
    prediction = client.infer(
        options.model,
        _read_inputs(options.file, info),
        operating_point=options.operating_point,
        threshold=options.threshold,
        max_exit=options.max_exit,
        synthetic=options.synthetic,
    )
    for row, label in enumerate(prediction.label_N.tolist()):
        reason = ExitReason(prediction.exit_reason_N[row]).name.lower()
        print(
            f"{row}: {printable(info.labels[label])} (label {label}), "
            f"confidence {prediction.confidence_N[row]:.4f}, left at exit {prediction.exit_N[row]} ({reason})"
        )
    return 0


def _read_inputs(path: Path, info: ModelInfo) -> Mapping[str, NDArray[Any]]:
    """Read a model's inputs from an .npz file; for a model of images also from a picture or an .npy file."""
    if path.suffix == ".npz":
        return read_rows(path, [each.name for each in info.inputs])
    try:
        row_shape = info.row_shape
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: expected .npz with an array for each input: {error}") from error
    return {info.inputs[0].name: read_images(path, row_shape)}


def _points(client: Client, options: argparse.Namespace) -> int:
    for name, point in client.points_in_force(options.model).items():
        print(point.describe(name))
    return 0


def _health(client: Client, _: argparse.Namespace) -> int:
    healthy = client.healthy()
    print("serving" if healthy else "not serving")
    return 0 if healthy else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.client", description="Send requests to an Offramp server."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--address", default=DEFAULT_ADDRESS, help="host:port (default: %(default)s)")
    shared.add_argument("--timeout-seconds", type=float, default=DEFAULT_TIMEOUT_SECONDS)
    shared.set_defaults(client=Client)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser("predict", parents=[shared], help="classify the rows in a file")
    predict.add_argument("--model", required=True)
    predict.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help=".npz with an array for each input; for images also .npy of uint8, or a picture (needs Pillow)",
    )
    predict.add_argument("--operating-point", help="a name, such as exact, balanced or fast")
    predict.add_argument("--threshold", type=float, help="smallest confidence that leaves early, in [0, 1]")
    predict.add_argument("--max-exit", type=int, help="the deepest exit to use")
    predict.add_argument("--synthetic", action="store_true", help="not real traffic: the monitor ignores it")
    predict.set_defaults(run=_predict)
    points = commands.add_parser("points", parents=[shared], help="show the state of each operating point")
    points.add_argument("--model", required=True)
    points.set_defaults(run=_points)
    check = commands.add_parser("health", parents=[shared], help="exit with 0 if the server accepts calls")
    check.set_defaults(run=_health)
    training_commands.add_to(commands, shared)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main, unwritten=1))
