"""Describes a served version on the wire: tensors, metadata and Triton's model configuration."""

import json
import math
from collections.abc import Iterable
from functools import cache, lru_cache

from serving.api.answer_form import AnswerForm
from serving.api.wire import inference
from serving.monitor.monitor import PointState
from serving.repository.manifest import Manifest, TensorSpec

PLATFORM = "offramp_onnx"
BACKEND = "onnxruntime"


@cache
def output_specs(classes: int) -> tuple[TensorSpec, ...]:
    """Return the output tensors of a model with `classes` classes."""
    return (
        TensorSpec(name="label", datatype="INT64", shape=(-1,)),
        TensorSpec(name="confidence", datatype="FP32", shape=(-1,)),
        TensorSpec(name="exit", datatype="INT32", shape=(-1,)),
        TensorSpec(name="exit_reason", datatype="INT32", shape=(-1,)),
        TensorSpec(name="probabilities", datatype="FP32", shape=(-1, classes)),
    )


OUTPUT_NAMES = tuple(spec.name for spec in output_specs(1))


@lru_cache(maxsize=1024)
def answer_form(
    model: str, version: int, classes: int, names: tuple[str, ...], *, streamed: bool
) -> AnswerForm:
    """Return the encoder of answers with these outputs."""
    specs = {spec.name: spec for spec in output_specs(classes)}
    return AnswerForm(model, version, [specs[name] for name in names], streamed=streamed)


def model_metadata(
    manifest: Manifest, versions: list[int], points: Iterable[PointState]
) -> inference.ModelMetadataResponse:
    """Return the inputs and outputs, with -1 as the batch dimension, and the operating points."""
    response = inference.ModelMetadataResponse(
        name=manifest.name, versions=[str(version) for version in versions], platform=PLATFORM
    )
    for spec in manifest.inputs:
        response.inputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    for spec in output_specs(len(manifest.labels)):
        response.outputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    response.operating_points.extend(map(operating_point_state, points))
    return response


def operating_point_state(state: PointState) -> inference.OperatingPointState:
    """Return the current state of an operating point, and of the test of its certificate."""
    watch = state.watch
    test = watch.test if watch else None
    return inference.OperatingPointState(
        name=state.name,
        in_force=state.in_force,
        thresholds=[math.inf if threshold is None else threshold for threshold in state.thresholds],
        revoked=state.revoked_by is not None,
        shadow_agreed=watch.agreed if watch else 0,
        shadow_differed=watch.differed if watch else 0,
        shadow_missing=watch.missing if watch else 0,
        evidence=test.evidence if test else 0.0,
        too_many_missing=watch is not None and watch.too_many_missing,
        revoked_by=state.revoked_by or "",
        verdict=watch.verdict if watch and test else "",
        epsilon=test.epsilon if test else 0.0,
        delta=test.delta if test else 0.0,
    )


def model_config(manifest: Manifest, max_batch_size: int, device: str) -> inference.ModelConfig:
    """Return Triton's model configuration.

    Dims omit the batch dimension. Values without a field in Triton's format are in `parameters`.
    """
    config = inference.ModelConfig(
        name=manifest.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=max_batch_size,
        dynamic_batching=inference.ModelDynamicBatching(),
        model_transaction_policy=inference.ModelTransactionPolicy(decoupled=False),
    )
    for spec in manifest.inputs:
        config.input.add(name=spec.name, data_type=_config_type(spec), dims=spec.row_shape)
    for spec in output_specs(len(manifest.labels)):
        # Triton writes the dims of an output with one number per row as [1].
        config.output.add(name=spec.name, data_type=_config_type(spec), dims=spec.row_shape or (1,))
    for key, value in _parameters(manifest, device).items():
        config.parameters[key].string_value = value
    return config


def _config_type(spec: TensorSpec) -> int:
    return int(inference.DataType.Value(f"TYPE_{spec.datatype}"))


def _parameters(manifest: Manifest, device: str) -> dict[str, str]:
    return {
        "labels": json.dumps(manifest.labels),
        "device": device,
        "exits": str(len(manifest.exits)),
        "default_operating_point": manifest.default_operating_point,
        "operating_points": json.dumps(
            {name: point.model_dump(mode="json") for name, point in manifest.operating_points.items()}
        ),
        "multiply_adds": json.dumps(manifest.multiply_adds),
    }
