"""The spans of an inference call: one for the call, and one child for each run of a stage on its rows.

Each exit where rows left is an event of the call's span.

A stage runs rows of several calls at once. Each of these calls gets a span of its own with the same times.
One shared span would be in the trace of one call only, and links to it are not part of a timeline.

Child spans and events are recorded after the answer was sent. Until then a traced call only collects its
stage runs.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial

import grpc
import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving import __version__
from serving.api.status import status_of
from serving.api.wire import INFERENCE_SERVICE
from serving.engine.request import Answers, Reply, Result, StageRun
from serving.errors import OfframpError, shown
from serving.exits.policy import DISABLED, ExitRule

PARENT_KEYS = ("traceparent", "tracestate")
"""The metadata keys of W3C Trace Context."""
SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""The gRPC statuses that set a server span's status to ERROR (OpenTelemetry, "Semantic conventions for
gRPC"). The others are errors of the caller."""
LAST_EXPORT_SECONDS = 2.0
"""Longest time to export the last spans, so that a receiver that does not answer cannot delay the stop. The
SDK's own limit is 30 s."""

_PROPAGATOR = TraceContextTextMapPropagator()
_LOG = structlog.get_logger(__name__)


class CallTracer:
    """Starts the spans of calls. Thread-safe."""

    def __init__(self, provider: TracerProvider) -> None:
        """Set the provider, which samples and exports the spans."""
        self._provider = provider
        self._tracer = provider.get_tracer("offramp", __version__)

    def start(
        self, metadata: Iterable[tuple[str, str | bytes]], received_seconds: float, *, streamed: bool
    ) -> "CallTrace | None":
        """Start the span of a call; return None if the call is not sampled.

        received_seconds: on the monotonic clock. An invalid `traceparent` in the metadata is ignored.
        """
        method = "ModelStreamInfer" if streamed else "ModelInfer"
        started = time.time_ns() - round(1e9 * (time.monotonic() - received_seconds))
        span = self._tracer.start_span(
            f"{INFERENCE_SERVICE}/{method}",
            _parent(metadata),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": INFERENCE_SERVICE, "rpc.method": method},
            start_time=started,
        )
        if not span.is_recording():
            return None
        return CallTrace(self._tracer, span, started - round(1e9 * received_seconds))

    def close(self) -> None:
        """Export the waiting spans and stop. Spans that take longer than LAST_EXPORT_SECONDS are lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracer-close", daemon=True)
        closing.start()
        closing.join(LAST_EXPORT_SECONDS)


class CallTrace:
    """The span of one call, and the stage runs of its rows."""

    def __init__(self, tracer: Tracer, span: Span, clock_offset: int) -> None:
        """Start without stage runs. clock_offset: nanoseconds from the monotonic clock to the epoch."""
        self._tracer = tracer
        self._span = span
        self._clock_offset = clock_offset
        self.stage_runs: list[StageRun] = []

    def describe(self, model: str, version: str, point: str, rows: int, request_id: str) -> None:
        """Set the attributes of the request."""
        self._span.set_attributes(
            {
                "offramp.model": shown(model),
                "offramp.version": shown(version),
                "offramp.operating_point": point,
                "offramp.rows": rows,
                "offramp.request_id": shown(request_id),
            }
        )

    def traced(self, reply: Reply, rule: ExitRule) -> Reply:
        """Return a reply that sends the result and then ends the span."""
        return partial(self._reply_and_end, reply, rule)

    def _reply_and_end(self, reply: Reply, rule: ExitRule, result: Result) -> None:
        reply(result)
        self.end(result, rule)

    def end(self, result: Result, rule: ExitRule | None = None) -> None:
        """End the span with a result that was already sent, so an error here is only logged.

        rule: the exit rule of the request; None if it was refused.
        """
        try:
            ended = time.monotonic()
            self._add_stages()
            if isinstance(result, Exception):
                self._set_error(result)
            else:
                self._span.set_attribute("rpc.grpc.status_code", grpc.StatusCode.OK.value[0])
                if rule is not None:
                    self._add_exits(result, rule)
            self._span.end(self._epoch(ended))
        except Exception as error:
            _LOG.error("call not traced", exc_info=error)

    def _add_stages(self) -> None:
        context = set_span_in_context(self._span, Context())
        for run in self.stage_runs:
            attributes: Mapping[str, int | float] = {
                "offramp.stage": run.stage,
                "offramp.rows": run.rows,
                "offramp.batch_rows": run.batch_rows,
                "offramp.queue_seconds": run.queue_seconds,
            }
            started = self._epoch(run.started_seconds)
            span = self._tracer.start_span(
                f"stage {run.stage}", context, attributes=attributes, start_time=started
            )
            span.end(self._epoch(run.ended_seconds))

    def _add_exits(self, answers: Answers, rule: ExitRule) -> None:
        ended = {run.stage: run.ended_seconds for run in self.stage_runs}
        for number, rows in sorted(Counter(answers.exit_R.tolist()).items()):
            attributes = {"offramp.exit": number, "offramp.rows": rows}
            threshold = rule.threshold(number)
            if threshold != DISABLED:
                attributes["offramp.threshold"] = threshold
            self._span.add_event("exit", attributes, self._epoch(ended[number]))

    def _set_error(self, error: Exception) -> None:
        status = status_of(error) if isinstance(error, OfframpError) else grpc.StatusCode.INTERNAL
        kind, message = type(error).__name__, str(error)
        self._span.set_attributes({"rpc.grpc.status_code": status.value[0], "error.type": kind})
        self._span.add_event("exception", {"exception.type": kind, "exception.message": message})
        if status in SERVER_FAULTS:
            self._span.set_status(StatusCode.ERROR, message)

    def _epoch(self, seconds: float) -> int:
        """Convert monotonic seconds to nanoseconds since the epoch."""
        return round(1e9 * seconds) + self._clock_offset


def _parent(metadata: Iterable[tuple[str, str | bytes]]) -> Context:
    """Return the context with the caller's span; an empty one without a valid `traceparent`."""
    carrier = {key: value for key, value in metadata if key in PARENT_KEYS and isinstance(value, str)}
    return _PROPAGATOR.extract(carrier, Context())
