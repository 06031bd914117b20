"""OpenTelemetry traces of inference calls. Off by default; needs the extra `tracing`."""
