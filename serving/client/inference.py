"""A small typed client, `Client(address).infer(model, {"image": images})`.

Any Open Inference Protocol client works with the server. This one needs only numpy, grpcio and protobuf, has
typed options and results for exits, and raises the errors of `serving.errors`.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serving.api.tensors import decode_outputs
from serving.api.wire import HEALTH_SERVICE, INFERENCE_SERVICE, health, inference
from serving.client.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_SECONDS, Connection, Timeout, Tls
from serving.client.point_in_force import PointInForce
from serving.datatypes import DTYPES
from serving.errors import InvalidRequest, PermissionDenied, shown

Inputs: TypeAlias = Mapping[str, NDArray[Any]]
"""An array [N, ...] for each input of a model, by name."""

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
    def final_exit(self) -> int:
        """The number of the last exit; exits count from 0."""
        return len(self.operating_points[self.default_operating_point]["thresholds"])

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one image, [C, H, W]; raises InvalidRequest if the model does not take images."""
        (first, *others) = self.inputs
        is_image = first.datatype == IMAGE_DATATYPE and len(first.row_shape) == IMAGE_DIMENSIONS
        if others or not is_image:
            inputs = ", ".join(map(str, self.inputs))
            raise InvalidRequest(
                f'model "{self.name}": expected one input of {IMAGE_DATATYPE} images, got {inputs}'
            )
        return first.row_shape


class Client(Connection):
    """A connection to a server, usable as a context manager. Thread-safe."""

    services = (INFERENCE_SERVICE, HEALTH_SERVICE)

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        tls: Tls | None = None,
        token: str | None = None,
    ) -> None:
        """Open a channel; for the arguments see `Connection`."""
        super().__init__(address, timeout_seconds=timeout_seconds, tls=tls, token=token)
        self._max_batch_sizes: dict[tuple[str, str], int] = {}

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
        inputs: Inputs,
        *,
        version: str = "",
        operating_point: str | None = None,
        threshold: float | None = None,
        max_exit: int | None = None,
        synthetic: bool = False,
        timeout_seconds: float | None = None,
    ) -> Prediction:
        """Classify rows. inputs: an array [N, ...] for each input of the model, by name; dtypes are kept.

        threshold: the smallest confidence that leaves early, in [0, 1]; it excludes operating_point. Without
        either, the model's default operating point is used. max_exit: the last exit to use. synthetic: the
        rows are not real traffic, so the server's monitor ignores them. Raises the OfframpError for the
        server's status code.

        More rows than the server's max_batch_size are sent as several requests, one after another. The
        options apply to each request, and the timeout to all together. One version answers all of them. If a
        request fails, its error is raised, earlier answers are lost, and later requests are not sent.
        """
        timeout = Timeout(self._timeout_seconds if timeout_seconds is None else timeout_seconds)
        request = inference.ModelInferRequest(model_name=model, model_version=version)
        if operating_point is not None:
            request.parameters["operating_point"].string_param = operating_point
        if threshold is not None:
            request.parameters["threshold"].double_param = threshold
        if max_exit is not None:
            request.parameters["max_exit"].int64_param = max_exit
        if synthetic:
            request.parameters["synthetic"].bool_param = True
        predictions = []
        try:
            for batch in self._batches(model, version, inputs, timeout):
                _set_inputs(request, batch)
                response = self._call("ModelInfer", request, inference.ModelInferResponse, timeout=timeout)
                request.model_version = response.model_version
                predictions.append(_prediction(response))
        except InvalidRequest:  # the server may have a smaller limit since it was read
            self._max_batch_sizes.pop((model, version), None)
            raise
        return _joined(predictions)

    def model(self, name: str, version: str = "") -> ModelInfo:
        """Return the inputs, labels, device and operating points of a model's version."""
        config = self._config(name, version)
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        return ModelInfo(
            name=config.name,
            max_batch_size=config.max_batch_size,
            inputs=tuple(
                InputInfo(
                    model_input.name,
                    inference.DataType.Name(model_input.data_type).removeprefix("TYPE_"),
                    tuple(model_input.dims),
                )
                for model_input in config.input
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

    def _config(self, name: str, version: str, timeout: Timeout | None = None) -> inference.ModelConfig:
        request = inference.ModelConfigRequest(name=name, version=version)
        return self._call("ModelConfig", request, inference.ModelConfigResponse, timeout=timeout).config

    def _batches(self, model: str, version: str, inputs: Inputs, timeout: Timeout) -> Iterator[Inputs]:
        """Split the rows into batches of at most the server's max_batch_size.

        Inputs with different numbers of rows stay together, so that the server refuses them.
        """
        counts = {len(array) if array.ndim else 0 for array in inputs.values()}
        rows = counts.pop() if len(counts) == 1 else 0
        limit = self._max_batch_size(model, version, timeout) if rows > 1 else 1
        if rows <= limit:
            yield inputs
            return
        for first in range(0, rows, limit):
            yield {name: array[first : first + limit] for name, array in inputs.items()}

    def _max_batch_size(self, model: str, version: str, timeout: Timeout) -> int:
        """Return the most rows of a request. It is kept until the server refuses a request."""
        if (model, version) not in self._max_batch_sizes:
            try:
                limit = self._config(model, version, timeout).max_batch_size
            except PermissionDenied:  # a token of the group `infer` alone
                limit = sys.maxsize
            self._max_batch_sizes[model, version] = limit
        return self._max_batch_sizes[model, version]


def _set_inputs(request: inference.ModelInferRequest, inputs: Inputs) -> None:
    """Replace the inputs of a request."""
    del request.inputs[:], request.raw_input_contents[:]
    for name, array in inputs.items():
        datatype = _datatype(name, array.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.astype(DTYPES[datatype], copy=False).tobytes())


def _prediction(response: inference.ModelInferResponse) -> Prediction:
    outputs: dict[str, Any] = decode_outputs(response)
    return Prediction(
        model_version=response.model_version,
        label_N=outputs["label"],
        confidence_N=outputs["confidence"],
        exit_N=outputs["exit"],
        exit_reason_N=outputs["exit_reason"],
        probabilities_NK=outputs["probabilities"],
    )


def _joined(predictions: Sequence[Prediction]) -> Prediction:
    """Return the answers of several requests in order."""
    if len(predictions) == 1:
        return predictions[0]
    return Prediction(
        model_version=predictions[0].model_version,
        label_N=np.concatenate([part.label_N for part in predictions]),
        confidence_N=np.concatenate([part.confidence_N for part in predictions]),
        exit_N=np.concatenate([part.exit_N for part in predictions]),
        exit_reason_N=np.concatenate([part.exit_reason_N for part in predictions]),
        probabilities_NK=np.concatenate([part.probabilities_NK for part in predictions]),
    )


def _datatype(name: str, dtype: np.dtype[Any]) -> str:
    """Return the wire name of a dtype in either byte order; raise InvalidRequest if there is none."""
    for datatype, known in DTYPES.items():
        if known == dtype.newbyteorder("<"):
            return datatype
    names = ", ".join(str(known) for known in DTYPES.values())
    raise InvalidRequest(f'input "{shown(name)}": expected a dtype of {names}, got {dtype}')
