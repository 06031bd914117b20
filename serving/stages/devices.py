"""The device that the stages run on.

onnxruntime silently falls back to the CPU if a GPU library is missing. So a device counts as available
only if a probe session runs on it.
"""

import contextlib
import importlib.util
import io
import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnxruntime

from serving.errors import ConfigurationError

DeviceName = Literal["auto", "cpu", "cuda", "tensorrt"]

_CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search would run for every batch size
    "arena_extend_strategy": "kSameAsRequested",
    "use_tf32": "0",  # so that answers agree with the certified ones
}

# An ONNX graph with one Identity node. A session of it shows which provider runs.
_PROBE_MODEL = (
    b'\x08\x08\x12\x00:;\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x05probe'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
FATAL_LOGS, _WARNING_LOGS = 4, 2
"""Log levels of onnxruntime."""


@dataclass(frozen=True)
class Device:
    """A device for sessions."""

    name: Literal["cpu", "cuda", "tensorrt"]
    provider: str
    memory: Literal["cpu", "cuda"]
    """onnxruntime's name of the memory that holds the slabs."""
    padded: bool = False
    """Whether batches are padded to a few sizes, each with separate sessions. On CUDA a session whose shapes
    change prepares every convolution again, which takes longer than the batch."""

    def providers(self) -> list[Any]:
        """Return onnxruntime's execution providers for this device, best first."""
        chains: dict[str, list[Any]] = {
            "cpu": ["CPUExecutionProvider"],
            "cuda": [("CUDAExecutionProvider", _CUDA_OPTIONS), "CPUExecutionProvider"],
            "tensorrt": [
                "TensorrtExecutionProvider",
                ("CUDAExecutionProvider", _CUDA_OPTIONS),
                "CPUExecutionProvider",
            ],
        }
        return chains[self.name]

    def batch_sizes(self, largest: int) -> list[int]:
        """Return the sizes that batches are padded to, ascending; empty on a CPU."""
        return sorted({max(1, largest // 8), largest}) if self.padded else []

    def default_workers(self) -> int:
        """Return the default number of concurrent batches: one per core on the CPU, one on a GPU."""
        if self.name != "cpu":
            return 1
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CPU = Device("cpu", "CPUExecutionProvider", "cpu")
CUDA = Device("cuda", "CUDAExecutionProvider", "cuda", padded=True)
TENSORRT = Device("tensorrt", "TensorrtExecutionProvider", "cuda", padded=True)


def choose_device(name: DeviceName) -> Device:
    """Return a device by name; 'auto' is CUDA if a session runs on it, otherwise the CPU.

    Raises ConfigurationError if the named device is not available.
    """
    if name == "cpu":
        return CPU
    if name == "auto":
        return CUDA if _runs_on(CUDA) else CPU
    device = {"cuda": CUDA, "tensorrt": TENSORRT}[name]
    if not _runs_on(device):
        available = [device.name for device in (CPU, CUDA, TENSORRT) if _runs_on(device)]
        raise ConfigurationError(
            f'device "{name}": expected a session to run on {device.provider}, '
            f"but on this machine sessions run only on: {', '.join(available)}"
        )
    return device


def _runs_on(device: Device) -> bool:
    if device.provider not in onnxruntime.get_available_providers():
        return False
    onnxruntime.set_default_logger_severity(FATAL_LOGS)  # a missing CUDA library is an expected result
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # onnxruntime prints libraries that it cannot load
            return _probe(device)
    except Exception:  # any error means that sessions do not run on this device
        return False
    finally:
        onnxruntime.set_default_logger_severity(_WARNING_LOGS)


def _probe(device: Device) -> bool:
    if device.memory == "cuda" and importlib.util.find_spec("nvidia"):
        onnxruntime.preload_dlls()  # loads CUDA libraries that pip installed
    session = onnxruntime.InferenceSession(_PROBE_MODEL, providers=device.providers())
    session.disable_fallback()
    session.run(None, {"x": np.ones(1, dtype=np.float32)})
    return bool(session.get_providers()[0] == device.provider)
