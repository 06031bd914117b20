"""Triton and perf_analyzer, each in a virtual environment in `.bench/` that is made once."""

import os
import shutil
import subprocess
import sys
import venv

import onnxruntime

from bench.publication import ROOT

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE64_PACKAGE = "libb64-0d"
"""The Debian package of a library that perf_analyzer links against."""
FOLDER = ROOT / ".bench"
BASE64_FOLDER = FOLDER / BASE64_PACKAGE
LOAD_BIN, TRITON_BIN = FOLDER / "perf-analyzer" / "bin", FOLDER / "triton" / "bin"
LOAD_PACKAGES, TRITON_PACKAGES = (
    path.parent / "lib" / f"python{PYTHON}" / "site-packages" for path in (LOAD_BIN, TRITON_BIN)
)
TRITON_FOLDER = TRITON_PACKAGES / "pytriton" / "tritonserver"
TRITON_BACKENDS = TRITON_BIN.parent / "backends"

LOAD_VARIABLES = {
    "LD_LIBRARY_PATH": f"{LOAD_PACKAGES}/nvidia/cuda_runtime/lib"
    f":{BASE64_FOLDER}/usr/lib/{os.uname().machine}-linux-gnu"
}
TRITON_VARIABLES = {
    "PATH": f"{TRITON_BIN}:{os.environ['PATH']}",
    "VIRTUAL_ENV": str(TRITON_BIN.parent),
    "LD_LIBRARY_PATH": f"{TRITON_PACKAGES}/nvidia_pytriton.libs",
}
"""The environment variables with which each program finds its libraries."""


def make_load_generator() -> None:
    """Install perf_analyzer, and unpack its library without being root."""
    _install("perf-analyzer", "tritonclient[grpc]==2.41.1", "nvidia-cuda-runtime-cu12==12.*")
    if (BASE64_FOLDER / "usr").is_dir():
        return
    BASE64_FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(("apt-get", "download", "--quiet", BASE64_PACKAGE), cwd=BASE64_FOLDER, check=True)
        (package,) = BASE64_FOLDER.glob("*.deb")
        subprocess.run(("dpkg", "--extract", package, BASE64_FOLDER), check=True)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise SystemExit(f"perf_analyzer needs Debian's package {BASE64_PACKAGE}: {error}") from error


def make_triton() -> None:
    """Install Triton with this onnxruntime, and add this interpreter to its Python backend."""
    packages = ("numpy", "flatbuffers", "packaging", "protobuf")
    runtime = f"onnxruntime=={onnxruntime.__version__}"
    _install("triton", "nvidia-pytriton==0.7.0", runtime, *packages, options=("--no-deps",))
    if TRITON_BACKENDS.is_dir():
        return
    stub = TRITON_FOLDER / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.exists():
        raise SystemExit(f"Triton's Python backend has no stub for Python {PYTHON}: expected {stub}")
    shutil.copytree(TRITON_FOLDER / "backends", TRITON_BACKENDS)
    shutil.copy(stub, TRITON_BACKENDS / "python")


def _install(name: str, *requirements: str, options: tuple[str, ...] = ()) -> None:
    """Create an environment, unless it exists with the same requirements."""
    folder = FOLDER / name
    stamp = folder / "requirements.txt"
    if stamp.exists() and stamp.read_text() == "\n".join(requirements):
        return
    print(f"installing {name}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run((*pip, *options, *requirements), check=True)
    stamp.write_text("\n".join(requirements))
