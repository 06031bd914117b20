"""Opens the tracer. While tracing is off, only this module is imported, and OpenTelemetry is not."""

from typing import TYPE_CHECKING

from serving.config import TracingSettings
from serving.errors import ConfigurationError, first_line

if TYPE_CHECKING:
    from serving.tracing.spans import CallTracer


def open_tracer(settings: TracingSettings) -> "CallTracer | None":
    """Return the tracer that exports to `tracing.endpoint`; None without an endpoint.

    Raises ConfigurationError if OpenTelemetry is not installed, or if one of its environment variables is
    invalid.
    """
    if settings.endpoint is None:
        return None
    try:
        from serving.tracing.provider import make_provider
        from serving.tracing.spans import CallTracer
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f'tracing.endpoint needs the extra "tracing", because {error.name} is not installed: '
            'pip install "offramp[tracing]"'
        ) from error
    try:
        return CallTracer(make_provider(settings.endpoint, settings.sample_ratio))
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"tracing: an OTEL_* environment variable is invalid: {first_line(error)}"
        ) from error
