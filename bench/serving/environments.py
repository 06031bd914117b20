"""The programs that the comparison needs and Offramp does not: each in a virtual environment of its own.

They lie in `.bench/`, made once. Every server runs the same version of onnxruntime.
"""

import ctypes.util
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / ".bench"
BASE64_LIBRARY = "libb64-0d"
"""What perf_analyzer links against beside CUDA's runtime: a Debian package."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    name: str
    requirements: tuple[str, ...]
    with_dependencies: bool = True

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return FOLDER / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return (
            self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        )

    def make(self) -> None:
        """Make it, unless it is there with the same requirements."""
        stamp = self.folder / "requirements.txt"
        wanted = "\n".join(self.requirements)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print(f"installing {self.name}", file=sys.stderr)
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.create(self.folder, with_pip=True)
        alone = () if self.with_dependencies else ("--no-deps",)
        pip = (self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run((*pip, *alone, *self.requirements), check=True)
        stamp.write_text(wanted)


_RUNTIME = f"onnxruntime=={onnxruntime.__version__}"
PERF_ANALYZER = Environment("perf-analyzer", ("tritonclient[grpc]==2.41.1", "nvidia-cuda-runtime-cu12==12.*"))
TRITON = Environment(
    "triton",
    ("nvidia-pytriton==0.7.0", _RUNTIME, "numpy", "flatbuffers", "packaging", "protobuf"),
    with_dependencies=False,
)
MLSERVER = Environment("mlserver", ("mlserver==1.7.1", _RUNTIME))


def make_all() -> None:
    """Make every environment that is not there; raise SystemExit where something can't be had."""
    make_load_generator()
    for environment in (TRITON, MLSERVER):
        environment.make()
    _join_triton_backends()


def make_load_generator() -> None:
    """Make the environment of perf_analyzer alone."""
    PERF_ANALYZER.make()
    _find_base64_library()


def perf_analyzer_variables() -> Mapping[str, str]:
    """Return the environment variables with which perf_analyzer finds its libraries."""
    libraries = [PERF_ANALYZER.packages / "nvidia" / "cuda_runtime" / "lib", _base64_folder()]
    return os.environ | {"LD_LIBRARY_PATH": ":".join(str(folder) for folder in libraries)}


def triton_folder() -> Path:
    """Where Triton's server and backends lie."""
    return TRITON.packages / "pytriton" / "tritonserver"


def triton_backends() -> Path:
    """Return the folder of backends in which the Python backend has this interpreter's stub."""
    return TRITON.folder / "backends"


def _join_triton_backends() -> None:
    if triton_backends().is_dir():
        return
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton_folder() / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise SystemExit(f"Triton's Python backend has no stub for Python {version}: expected {stub}")
    shutil.copytree(triton_folder() / "backends", triton_backends())
    shutil.copy(stub, triton_backends() / "python")


def _base64_folder() -> Path:
    return FOLDER / BASE64_LIBRARY / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"


def _find_base64_library() -> None:
    """See to perf_analyzer's library: installed, unpacked before, or unpacked now without being root."""
    if ctypes.util.find_library("b64") or _base64_folder().is_dir():
        return
    folder = FOLDER / BASE64_LIBRARY
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(("apt-get", "download", "--quiet", BASE64_LIBRARY), cwd=folder, check=True)
        (package,) = folder.glob("*.deb")
        subprocess.run(("dpkg", "--extract", package, folder), check=True)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise SystemExit(
            f"perf_analyzer needs libb64.so.0d: expected Debian's package {BASE64_LIBRARY}, got {error}"
        ) from error
