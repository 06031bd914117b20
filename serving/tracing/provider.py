"""The OpenTelemetry SDK's part: sampling, and the export in batches over OTLP.

Finished spans wait in the SDK's bounded queue for one exporting thread. If the queue is full, spans are
dropped. So a slow or unreachable receiver does not delay calls. The SDK itself reads the OTEL_* environment
variables for headers, certificates, timeouts, batches and resource attributes.
"""

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from serving import __version__


def make_provider(endpoint: str, sample_ratio: float) -> TracerProvider:
    """Return a provider that exports sampled spans to an endpoint, and start its thread.

    sample_ratio: probability that a call is sampled if its caller made no decision.
    """
    defaults = Resource.create({SERVICE_NAME: "offramp", SERVICE_VERSION: __version__})
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(sample_ratio),
        resource=defaults.merge(OTELResourceDetector().detect()),  # OTEL_SERVICE_NAME replaces the default
        shutdown_on_exit=False,  # the server's drain does it, with a time limit
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return provider
