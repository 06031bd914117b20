"""The conditions of a measurement: the machine, and the versions of what computed the figures."""

import contextlib
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

PACKAGES = ("offramp", "numpy", "scipy", "torch", "onnx", "onnxruntime")
"""What computes weights, stages and figures."""
_DISTRIBUTIONS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime")}


def hardware() -> str:
    """Name the processor, the system and the number of cores."""
    return f"{processor()}, {platform.system()}, {os.cpu_count()} cores"


def processor() -> str:
    """Name the processor; only the architecture where the system does not tell more."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.machine()


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return Python's version and those of the packages that are installed, by name."""
    versions = {"python": platform.python_version()}
    for name in packages:
        for distribution in _DISTRIBUTIONS.get(name, (name,)):
            with contextlib.suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(distribution)
                break
    return versions
