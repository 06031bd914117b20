"""Serves multi-exit classifiers over gRPC."""

__version__ = "0.1.0"
