"""Serves multi-exit classifiers over gRPC."""

import os

__version__ = "0.1.0"

# onnxruntime sends usage data to its vendor and keeps an identifier in the home folder, unless this is set
# before its first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
