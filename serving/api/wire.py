"""Message classes of the wire contracts, built in a private descriptor pool.

Python's default pool allows each message name once. A process that imports another package's copy of the
Open Inference Protocol would fail there with 'duplicate symbol'. The classes are built from the committed
FileDescriptorSet, so no generated code depends on a protobuf version.
"""

import re
from dataclasses import dataclass
from importlib import resources
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper
from google.protobuf.message import Message

from serving.api import generated

__all__ = [
    "HEALTH_SERVICE",
    "INFERENCE_SERVICE",
    "POOL",
    "TRAINING_SERVICE",
    "Rpc",
    "health",
    "inference",
    "service_rpcs",
    "snake_case",
    "training",
]

INFERENCE_SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"
TRAINING_SERVICE = "offramp.v1.Training"


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    packed = (resources.files(generated) / "descriptors.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(packed).file:
        pool.Add(file)
    return pool


def _contract(name: str) -> SimpleNamespace:
    """Return a contract's messages and enum values by name, as in a _pb2 module."""
    file = POOL.FindFileByName(name)
    members: dict[str, Any] = {
        message: message_factory.GetMessageClass(descriptor)
        for message, descriptor in file.message_types_by_name.items()
    }
    for enum in file.enum_types_by_name.values():
        members[enum.name] = enum_type_wrapper.EnumTypeWrapper(enum)
        members.update({value.name: value.number for value in enum.values})
    return SimpleNamespace(**members)


@dataclass(frozen=True)
class Rpc:
    """A method of a service, with its message classes."""

    name: str
    request: type[Message]
    response: type[Message]


def service_rpcs(service: str, *, streams: bool = False) -> list[Rpc]:
    """Return a service's unary methods, or with `streams` those that answer with a stream."""
    return [
        Rpc(
            method.name,
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
        for method in POOL.FindServiceByName(service).methods
        if not method.client_streaming and method.server_streaming is streams
    ]


def snake_case(rpc: str) -> str:
    """Return the name of the Python method that answers an RPC."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", rpc).lower()


POOL = _pool()
"""The pool of all contracts; reflection uses it."""

if TYPE_CHECKING:
    from serving.api.generated import health_pb2 as health
    from serving.api.generated import open_inference_pb2 as inference
    from serving.api.generated import training_pb2 as training
else:
    inference = _contract("open_inference.proto")
    health = _contract("health.proto")
    training = _contract("training.proto")
