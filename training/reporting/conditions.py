"""The conditions of a measurement: the machine and the package versions."""

import contextlib
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

PACKAGES = ("offramp", "numpy", "scipy", "torch", "onnx", "onnxruntime")
"""Packages that affect weights, stages or results."""
_DISTRIBUTIONS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime")}


def hardware() -> str:
    """Return the processor, the system and the number of cores."""
    return f"{processor()}, {platform.system()}, {os.cpu_count()} cores"


def processor() -> str:
    """Return the processor's name; only the architecture if the name is not available."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.machine()


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of the installed packages, by name."""
    versions = {"python": platform.python_version()}
    for name in packages:
        for distribution in _DISTRIBUTIONS.get(name, (name,)):
            with contextlib.suppress(metadata.PackageNotFoundError):
                versions[name] = metadata.version(distribution)
                break
    return versions
