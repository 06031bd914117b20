"""An OTLP receiver in this process, which keeps the spans that a server exports."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.serving.live_server import eventually

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
REQUEST_ID = "offramp.request_id"


@dataclass(frozen=True)
class Trace:
    """The span of one call, and its child spans by start time."""

    call: Span
    stages: list[Span]


@dataclass
class SpanReceiver:
    """The spans received so far."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)

    def export(self, request: ExportTraceServiceRequest, _: object) -> ExportTraceServiceResponse:
        for part in request.resource_spans:
            self.resources.append(attributes(part.resource.attributes))
            for scope in part.scope_spans:
                self.spans += scope.spans
        return ExportTraceServiceResponse()

    def calls(self) -> list[Span]:
        """Return the spans of calls."""
        return [span for span in list(self.spans) if span.kind == Span.SPAN_KIND_SERVER]

    def trace(self, request_id: str) -> Trace:
        """Wait for the span of a call, and return it with its children."""

        def find() -> list[Span]:
            return [call for call in self.calls() if attributes(call.attributes)[REQUEST_ID] == request_id]

        assert eventually(lambda: bool(find())), f"no span of the request {request_id}"
        (call,) = find()
        children = [span for span in list(self.spans) if span.parent_span_id == call.span_id]
        return Trace(call, sorted(children, key=lambda span: span.start_time_unix_nano))


def attributes(pairs: Any) -> dict[str, Any]:  # noqa: ANN401 - a repeated field
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:  # noqa: ANN401 - a oneof
    kind = pair.value.WhichOneof("value")
    assert kind is not None, MessageToDict(pair)
    return getattr(pair.value, kind)


@contextmanager
def receiving() -> Iterator[SpanReceiver]:
    """Receive spans on a free port."""
    receiver = SpanReceiver()
    handler = grpc.unary_unary_rpc_method_handler(
        receiver.export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": handler}),))
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()
