"""How a served version describes itself on the wire: tensors, metadata, Triton's model configuration."""

import json
from collections.abc import Mapping

from serving.api.wire import inference
from serving.repository.manifest import Manifest, TensorSpec

PLATFORM = "offramp_onnx"
BACKEND = "onnxruntime"

_CONFIG_TYPES: Mapping[str, inference.DataType] = {
    "BOOL": inference.TYPE_BOOL,
    "UINT8": inference.TYPE_UINT8,
    "INT32": inference.TYPE_INT32,
    "INT64": inference.TYPE_INT64,
    "FP32": inference.TYPE_FP32,
    "FP64": inference.TYPE_FP64,
}


def output_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """List the outputs that every model answers with."""
    return (
        TensorSpec(name="label", datatype="INT64", shape=(-1,)),
        TensorSpec(name="confidence", datatype="FP32", shape=(-1,)),
        TensorSpec(name="exit", datatype="INT32", shape=(-1,)),
        TensorSpec(name="exit_reason", datatype="INT32", shape=(-1,)),
        TensorSpec(name="probabilities", datatype="FP32", shape=(-1, len(manifest.labels))),
    )


def model_metadata(manifest: Manifest, versions: list[int]) -> inference.ModelMetadataResponse:
    """Describe inputs and outputs; shapes lead with -1."""
    response = inference.ModelMetadataResponse(
        name=manifest.name, versions=[str(version) for version in versions], platform=PLATFORM
    )
    for spec in manifest.inputs:
        response.inputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    for spec in output_specs(manifest):
        response.outputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    return response


def model_config(manifest: Manifest, max_batch_size: int, device: str) -> inference.ModelConfig:
    """Describe the version as Triton would; dims omit the batch, and parameters hold what has no field."""
    config = inference.ModelConfig(
        name=manifest.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=max_batch_size,
        dynamic_batching=inference.ModelDynamicBatching(),
        model_transaction_policy=inference.ModelTransactionPolicy(decoupled=False),
    )
    for spec in manifest.inputs:
        config.input.add(name=spec.name, data_type=_CONFIG_TYPES[spec.datatype], dims=spec.row_shape)
    for spec in output_specs(manifest):
        # An output of one number a row has no dimension besides the batch; Triton writes that as [1].
        config.output.add(name=spec.name, data_type=_CONFIG_TYPES[spec.datatype], dims=spec.row_shape or (1,))
    for key, value in _parameters(manifest, device).items():
        config.parameters[key].string_value = value
    return config


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
