"""A small typed client, `Client(address).infer(model, {"image": images})`, and its command line.

Any Open Inference Protocol client works with the server. This one needs only numpy, grpcio and protobuf, has
typed options and results for exits, and raises the errors of `serving.errors`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving import training_commands
from serving.api.tensors import decode_outputs
from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, health, inference
from serving.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_SECONDS, Connection
from serving.datatypes import DTYPES
from serving.errors import InvalidRequest, OfframpError, shown
from serving.exits.policy import ExitReason
from serving.image_files import read_images
from serving.point_in_force import PointInForce
from serving.printable import printable
from serving.row_files import read_rows
from serving.standard_streams import complain, run_command

IMAGE_DATATYPE, IMAGE_DIMENSIONS = "UINT8", 3


@dataclass(frozen=True)
class Prediction:
    """The answers to a request, one entry for each row (`N` rows, `K` classes)."""

    model_version: str
    label_N: NDArray[np.int64]
    confidence_N: NDArray[np.float32]
    exit_N: NDArray[np.int32]
    exit_reason_N: NDArray[np.int32]
    """Values of serving.exits.policy.ExitReason."""
    probabilities_NK: NDArray[np.float32]


@dataclass(frozen=True)
class InputInfo:
    """An input of a served model."""

    name: str
    datatype: str
    """Name on the wire, such as INT64; `serving.datatypes` maps it to a numpy dtype."""
    row_shape: tuple[int, ...]
    """Shape of one row, without the batch."""

    def __str__(self) -> str:
        """Return name, datatype and the shape of a batch."""
        return f"{self.name} {self.datatype} {[-1, *self.row_shape]}"


@dataclass(frozen=True)
class ModelInfo:
    """The description of a served model."""

    name: str
    max_batch_size: int
    inputs: tuple[InputInfo, ...]
    labels: tuple[str, ...]
    device: str
    default_operating_point: str
    operating_points: dict[str, dict[str, Any]]
    """Each point as in the manifest: thresholds, figures and certificate."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one image, [C, H, W]; raises InvalidRequest if the model does not take images."""
        (first, *others) = self.inputs
        is_image = first.datatype == IMAGE_DATATYPE and len(first.row_shape) == IMAGE_DIMENSIONS
        if others or not is_image:
            takes = ", ".join(map(str, self.inputs))
            raise InvalidRequest(
                f'model "{self.name}": expected one input of {IMAGE_DATATYPE} images, got {takes}'
            )
        return first.row_shape


class Client(Connection):
    """A connection to a server, usable as a context manager. Thread-safe."""

    services = (INFERENCE_SERVICE, HEALTH_SERVICE)

    def predict(
        self,
        model: str,
        images: NDArray[np.uint8],
        *,
        version: str = "",
        operating_point: str | None = None,
        threshold: float | None = None,
        max_exit: int | None = None,
        synthetic: bool = False,
        timeout_seconds: float | None = None,
    ) -> Prediction:
        """Classify images [N, C, H, W] of raw uint8 pixels, for a model whose one input is `image`.

        For options and errors see `infer`.
        """
        if images.dtype != np.uint8:
            raise InvalidRequest(f"images: expected uint8 pixels, got {images.dtype}")
        return self.infer(
            model,
            {"image": images},
            version=version,
            operating_point=operating_point,
            threshold=threshold,
            max_exit=max_exit,
            synthetic=synthetic,
            timeout_seconds=timeout_seconds,
        )

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        *,
        version: str = "",
        operating_point: str | None = None,
        threshold: float | None = None,
        max_exit: int | None = None,
        synthetic: bool = False,
        timeout_seconds: float | None = None,
    ) -> Prediction:
        """Classify rows. inputs: an array [N, ...] for each input of the model, by name; never cast.

        Set operating_point or threshold (the smallest confidence that leaves early, in [0, 1]), not both; by
        default the model's default operating point is used. max_exit: the deepest exit. synthetic: the rows
        are not real traffic, so the server's monitor ignores them. Raises the OfframpError of the server's
        status.
        """
        request = inference.ModelInferRequest(model_name=model, model_version=version)
        for name, array in inputs.items():
            datatype = _datatype(name, array.dtype)
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(array.astype(DTYPES[datatype], copy=False).tobytes())
        if operating_point is not None:
            request.parameters["operating_point"].string_param = operating_point
        if threshold is not None:
            request.parameters["threshold"].double_param = threshold
        if max_exit is not None:
            request.parameters["max_exit"].int64_param = max_exit
        if synthetic:
            request.parameters["synthetic"].bool_param = True
        response = self._call(
            "ModelInfer", request, inference.ModelInferResponse, timeout_seconds=timeout_seconds
        )
        outputs: dict[str, Any] = decode_outputs(response)
        return Prediction(
            model_version=response.model_version,
            label_N=outputs["label"],
            confidence_N=outputs["confidence"],
            exit_N=outputs["exit"],
            exit_reason_N=outputs["exit_reason"],
            probabilities_NK=outputs["probabilities"],
        )

    def model(self, name: str) -> ModelInfo:
        """Return a model's inputs, labels, device and operating points."""
        request = inference.ModelConfigRequest(name=name)
        config = self._call("ModelConfig", request, inference.ModelConfigResponse).config
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        return ModelInfo(
            name=config.name,
            max_batch_size=config.max_batch_size,
            inputs=tuple(
                InputInfo(
                    each.name,
                    inference.DataType.Name(each.data_type).removeprefix("TYPE_"),
                    tuple(each.dims),
                )
                for each in config.input
            ),
            labels=tuple(json.loads(parameters["labels"])),
            device=parameters["device"],
            default_operating_point=parameters["default_operating_point"],
            operating_points=json.loads(parameters["operating_points"]),
        )

    def points_in_force(self, name: str, version: str = "") -> dict[str, PointInForce]:
        """Return the current state of each operating point of a model, by name."""
        request = inference.ModelMetadataRequest(name=name, version=version)
        metadata = self._call("ModelMetadata", request, inference.ModelMetadataResponse)
        return {state.name: PointInForce.of(state) for state in metadata.operating_points}

    def healthy(self) -> bool:
        """Return whether the server's standard health check reports SERVING."""
        response = self._call(
            "Check", health.HealthCheckRequest(), health.HealthCheckResponse, service=HEALTH_SERVICE
        )
        return response.status == health.HealthCheckResponse.SERVING


def _datatype(name: str, dtype: np.dtype[Any]) -> str:
    """Return the wire name of a dtype in either byte order; raise InvalidRequest if there is none."""
    for datatype, known in DTYPES.items():
        if known == dtype.newbyteorder("<"):
            return datatype
    names = ", ".join(str(known) for known in DTYPES.values())
    raise InvalidRequest(f'input "{shown(name)}": expected a dtype of {names}, got {dtype}')


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
