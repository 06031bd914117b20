"""onnxruntime's telemetry is off wherever Offramp imports onnxruntime."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_imports import importers

ROOT = Path(__file__).parent.parent
MODULES = ("serving.stages.devices", "training.retarget.manifest")
"""A module of each package, since the packages' __init__.py turn telemetry off."""
OPEN_A_SESSION = """
import sys, importlib
importlib.import_module(sys.argv[1])
import onnxruntime
onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
"""


def home_after(module: str, home: Path) -> list[Path]:
    """Return the entries of an empty home folder after a process imported a module and opened a session."""
    named = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    stage = next(ROOT.glob("models/fashion-mnist/*/stage-0.onnx"))
    subprocess.run(
        [sys.executable, "-c", OPEN_A_SESSION, module, str(stage)],
        cwd=ROOT,
        env={**named, "PYTHONPATH": str(ROOT), "HOME": str(home)},
        check=True,
        timeout=60,
    )
    return list(home.iterdir())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_uses_onnxruntime_leaves_no_identifier(module: str, tmp_path: Path) -> None:
    assert home_after(module, tmp_path) == []


def test_a_module_of_each_package_with_onnxruntime_is_tested() -> None:
    packages = {module.split(".")[0] for module in importers("onnxruntime")}

    assert {module.split(".")[0] for module in MODULES} == packages


def test_a_user_may_turn_telemetry_on() -> None:
    program = "import serving, training, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"

    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert finished.stdout == "0\n"
