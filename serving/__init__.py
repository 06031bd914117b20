"""Serve multi-exit classifiers over gRPC: requests, rows, stages, exits, answers."""

__version__ = "0.1.0"
