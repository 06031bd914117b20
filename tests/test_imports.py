"""Who may import whom: the direction of dependence, read from the sources."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TRAINING_MAY_USE = (
    "serving.repository",
    "serving.exits.policy",
    "serving.stages.runner",
    "serving.stages.devices",
    "serving.errors",
)
"""All that training may know of serving: the format, the exit policy, and the stages as they are served."""

# For a package or module, top-level names or modules that it must do without.
DOES_WITHOUT = {
    "serving": ("torch", "training", "sklearn", "scipy", "matplotlib", "onnx", "tritonclient", "tests"),
    "serving.engine": ("grpc", "google", "serving.api", "serving.server", "serving.config"),
    "serving.exits.policy": ("onnxruntime", "serving"),
    "serving.engine.scheduler": ("onnxruntime", "threading", "time", "asyncio"),
    "serving.engine.slots": ("onnxruntime", "threading", "time", "asyncio"),
    "serving.exits.options": ("onnxruntime", "threading"),
    "serving.engine.admission": ("onnxruntime", "threading", "time", "numpy"),
    "serving.stages.runner": ("serving.engine.scheduler", "serving.engine.request", "threading"),
    "serving.engine.decision": ("onnxruntime", "threading", "serving.engine.scheduler"),
    "serving.engine.batch_run": ("serving.engine.scheduler", "serving.exits.options"),
    "serving.jobs": ("grpc", "google", "onnxruntime", "serving.api", "serving.server", "serving.engine"),
    "serving.jobs.recipes": ("asyncio",),
    "serving.repository": (
        "onnxruntime",
        "grpc",
        "numpy",
        "serving.engine",
        "serving.api",
        "prometheus_client",
    ),
    "serving.api": ("onnxruntime", "training"),
    "serving.errors": ("grpc", "serving"),
    "serving.metrics": ("grpc", "onnxruntime", "serving.engine", "serving.api", "serving.repository"),
    "serving.bulk_histogram": ("grpc", "onnxruntime", "serving"),
    **dict.fromkeys(
        (
            "serving.client",
            "serving.connection",
            "serving.image_files",
            "serving.training_client",
            "serving.training_commands",
            "serving.training_display",
        ),
        (
            "onnxruntime",
            "pydantic",
            "serving.engine.engine",
            "serving.jobs",
            "serving.repository",
            "serving.server",
        ),
    ),
    "training": ("serving.api", "serving.server", "serving.client", "serving.config", "grpc", "tests"),
}

# Modules of ours that an installation without an extra imports, and what they must do without there.
RUNS_WITHOUT = {
    "serving.client": ("numpy", "grpc", "google"),
    "serving.__main__": (
        "numpy",
        "grpc",
        "google",
        "onnxruntime",
        "pydantic",
        "structlog",
        "prometheus_client",
    ),
}


def sources(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = {name: path for package in ("serving", "training") for name, path in sources(package)}


def imports(module: str) -> set[str]:
    """Full names that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            assert node.module
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def lies_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_sources_are_found() -> None:
    assert {"serving.server", "serving.engine.engine", "training.errors"} <= set(MODULES)


@pytest.mark.parametrize("module", [name for name in MODULES if lies_in(name, "training")])
def test_training_knows_of_serving_only_what_they_share(module: str) -> None:
    across = {name for name in imports(module) if lies_in(name, "serving")}

    assert {name for name in across if not any(lies_in(name, may) for may in TRAINING_MAY_USE)} == set()


@pytest.mark.parametrize("package", DOES_WITHOUT)
def test_a_part_does_without_what_it_must_not_know(package: str) -> None:
    for module in MODULES:
        if lies_in(module, package):
            known = imports(module)
            wrong = {name for name in known for other in DOES_WITHOUT[package] if lies_in(name, other)}
            assert wrong == set(), f"{module} imports {sorted(wrong)}"


@pytest.mark.parametrize("module", [name for name in MODULES if lies_in(name, "serving.api")])
def test_the_api_reaches_no_deeper_than_the_engines_door(module: str) -> None:
    hidden = ("scheduler", "slots", "stages", "batch_run", "admission")

    wrong = {name for name in imports(module) for part in hidden if lies_in(name, f"serving.engine.{part}")}

    assert wrong == set()


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(finished.stdout.split())


THIRD_PARTY = {
    "google",
    "grpc",
    "matplotlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "pandas",
    "prometheus_client",
    "pydantic",
    "scipy",
    "sklearn",
    "structlog",
    "torch",
    "tqdm",
    "training",
    "tritonclient",
    "PIL",
}


@pytest.mark.parametrize("module", RUNS_WITHOUT)
def test_importing_a_program_loads_no_more_than_its_installation_has(module: str) -> None:
    assert loaded_by(f"import {module}") & THIRD_PARTY <= set(RUNS_WITHOUT[module])


def test_what_training_shares_of_serving_loads_neither_grpc_nor_torch() -> None:
    shared = ", ".join(TRAINING_MAY_USE)

    assert not loaded_by(f"import {shared}, serving.repository.manifest") & {"grpc", "torch", "training"}
