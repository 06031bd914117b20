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
    "serving.datatypes",
    "serving.console.command_parser",
    "serving.console.extras",
    "serving.console.standard_streams",
    "serving.console.table",
    "serving.files",
)
"""All that training may know of serving: the format, the exit policy, the stages as they are served, and
what every command line shares."""

FRONT_END_PARTS = ("grpc", "google", "pygrpc_native", "asyncio", "serving.api", "serving.frontend")
"""What speaks to callers: the parts that compute must do without."""
QUEUES = (
    "serving.engine.queues",
    "serving.engine.scheduler",
    "serving.engine.worker",
    "serving.engine.engine",
)
LIGHT_CLIENT = (
    "serving.client",
    "serving.client.__main__",
    "serving.client.connection",
    "serving.client.image_files",
    "serving.client.job_lines",
    "serving.client.point_in_force",
    "serving.client.points_command",
    "serving.client.predict_command",
    "serving.client.row_files",
    "serving.client.training",
    "serving.client.training_commands",
    "serving.client.training_display",
)

# For a package or module, top-level names or modules that it must do without.
DOES_WITHOUT = {
    "serving": ("torch", "training", "sklearn", "scipy", "matplotlib", "onnx", "tritonclient", "tests"),
    "serving.engine": (
        *FRONT_END_PARTS,
        "onnxruntime",
        "prometheus_client",
        "serving.config",
        "serving.config_sources",
        "serving.jobs",
        "serving.lifecycle.readiness",
        "serving.lifecycle.server",
    ),
    "serving.engine.request": ("onnxruntime", *QUEUES, "serving.stages", "serving.monitor"),
    "serving.engine.queues": ("threading", "time", *QUEUES[1:], "serving.monitor", "serving.metrics"),
    "serving.engine.scheduler": ("threading", "time", "numpy", *QUEUES[2:], "serving.monitor"),
    "serving.engine.version": ("threading", "serving.engine.worker", "serving.engine.engine"),
    "serving.engine.worker": ("serving.engine.engine", "serving.stages", "serving.monitor", "serving.exits"),
    "serving.engine.decision": ("threading", "time", *QUEUES, "serving.stages"),
    "serving.engine.execution": ("threading", *QUEUES, "serving.exits", "serving.monitor"),
    "serving.engine.observation": QUEUES,
    "serving.engine.statistics": (*QUEUES, "serving.monitor", "serving.metrics"),
    "serving.exits": (
        *FRONT_END_PARTS,
        "onnxruntime",
        "threading",
        "time",
        "serving.engine",
        "serving.metrics",
        "serving.monitor",
        "serving.stages",
    ),
    "serving.exits.policy": ("serving",),
    "serving.stages": (
        *FRONT_END_PARTS,
        "threading",
        "serving.config",
        "serving.engine",
        "serving.exits",
        "serving.metrics",
        "serving.monitor",
    ),
    "serving.stages.costs": ("numpy", "onnxruntime", "time", "serving"),
    "serving.monitor": (
        *FRONT_END_PARTS,
        "onnxruntime",
        "prometheus_client",
        *QUEUES,
        "serving.config",
        "serving.lifecycle.server",
        "serving.stages",
    ),
    "serving.monitor.agreement": ("threading", "time", "serving.engine", "serving.metrics"),
    "serving.monitor.drift": ("threading", "time", "serving.engine", "serving.metrics"),
    "serving.frontend": (
        "onnxruntime",
        "numpy",
        "prometheus_client",
        *QUEUES,
        "serving.exits",
        "serving.jobs",
        "serving.metrics",
        "serving.monitor",
        "serving.repository",
        "serving.lifecycle.server",
        "serving.stages",
    ),
    "serving.frontend.address": ("grpc", "asyncio", "threading", "serving.api", "serving.engine"),
    "serving.frontend.grpcio": ("pygrpc_native", "threading", "serving.engine", "serving.frontend.native"),
    "serving.frontend.loop": ("pygrpc_native", "serving.frontend.native", "serving.frontend.grpcio"),
    "serving.frontend.native": (
        "google",
        "asyncio",
        "threading",
        "serving.engine",
        "serving.frontend.grpcio",
        "serving.frontend.loop",
    ),
    "serving.jobs": (
        *("grpc", "google", "pygrpc_native", "onnxruntime", "serving.api", "serving.engine"),
        *(
            "serving.exits",
            "serving.frontend",
            "serving.monitor",
            "serving.lifecycle.server",
            "serving.stages",
        ),
    ),
    "serving.jobs.recipes": ("asyncio",),
    "serving.repository": (
        *FRONT_END_PARTS,
        "onnxruntime",
        "numpy",
        "prometheus_client",
        "serving.engine",
        "serving.exits",
        "serving.monitor",
        "serving.stages",
    ),
    "serving.api": (
        "onnxruntime",
        "pygrpc_native",
        "threading",
        "serving.config",
        "serving.lifecycle.server",
    ),
    "serving.errors": ("grpc", "serving"),
    "serving.lifecycle.readiness": ("grpc", "asyncio", "serving.engine"),
    "serving.metrics.model_metrics": (*FRONT_END_PARTS, "onnxruntime", "serving.engine", "serving.monitor"),
    "serving.security": (
        *("onnxruntime", "numpy", "serving.engine", "serving.jobs", "serving.lifecycle", "serving.monitor"),
        *("serving.repository", "serving.stages"),
    ),
    "serving.http": ("grpc", "google", "pygrpc_native", "onnxruntime", "serving.api", "serving.client"),
    "serving.metrics": (
        *FRONT_END_PARTS,
        "onnxruntime",
        "serving.engine",
        "serving.monitor",
        "serving.repository",
    ),
    "serving.console.standard_streams": ("serving",),
    "serving.files": ("serving",),
    "serving.lifecycle.trial": (
        *FRONT_END_PARTS,
        "asyncio",
        "serving.engine",
        "serving.metrics",
        "serving.monitor",
    ),
    "serving.metrics.bulk_histogram": ("grpc", "onnxruntime", "serving"),
    "serving.tracing": ("serving.frontend", "serving.lifecycle", "serving.metrics", "serving.monitor"),
    "serving.tracing.opening": ("grpc", "serving.engine"),
    **dict.fromkeys(
        LIGHT_CLIENT,
        (
            "onnxruntime",
            "pydantic",
            "pygrpc_native",
            *QUEUES,
            "serving.frontend",
            "serving.jobs",
            "serving.monitor",
            "serving.repository",
            "serving.lifecycle.server",
            "serving.stages",
        ),
    ),
    "training": (
        "serving.api",
        "serving.lifecycle.server",
        "serving.client",
        "serving.config",
        "grpc",
        "tests",
    ),
}

# Modules of ours that an installation without an extra imports, and what they must do without there.
RUNS_WITHOUT = {
    "serving.client": ("numpy", "grpc", "google"),
    "serving.client.__main__": ("numpy", "grpc", "google"),
    "offramp.__main__": (),
    "serving.__main__": (),
    "training.__main__": ("training",),
    "serving.commands.program": ("numpy", "google", "pydantic", "structlog", "prometheus_client"),
}


def sources(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = {name: path for package in ("offramp", "serving", "training") for name, path in sources(package)}


def imports(module: str) -> set[str]:
    """Return the full names that a module imports, wherever in it."""
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
    assert {"serving.lifecycle.server", "serving.engine.engine", "training.errors"} <= set(MODULES)


@pytest.mark.parametrize("package", DOES_WITHOUT)
def test_a_part_that_is_held_to_something_is_there(package: str) -> None:
    assert package in MODULES


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


API_MAY_USE = {
    "serving.engine": ("engine", "observation", "request", "version"),
    "serving.frontend": ("interface",),
    "serving.monitor": ("monitor",),
    "serving.exits": ("options", "policy"),
    "serving.stages": (),
}
"""Of these packages, the modules that the API may know."""


@pytest.mark.parametrize("package", API_MAY_USE)
def test_the_api_reaches_no_deeper_than_it_may(package: str) -> None:
    may_use = [f"{package}.{part}" for part in API_MAY_USE[package]]
    for module in MODULES:
        if lies_in(module, "serving.api"):
            reached = {name for name in imports(module) if lies_in(name, package)}
            wrong = {name for name in reached if not any(lies_in(name, each) for each in may_use)}
            assert wrong == set(), f"{module} imports {sorted(wrong)}"


def importers(package: str) -> set[str]:
    """Return the modules that import a package."""
    return {module for module in MODULES if any(lies_in(name, package) for name in imports(module))}


def test_only_the_native_front_end_knows_its_package() -> None:
    assert importers("pygrpc_native") == {"serving.frontend.native"}


def test_only_tracing_imports_opentelemetry() -> None:
    assert importers("opentelemetry") == {"serving.tracing.provider", "serving.tracing.spans"}


def test_only_the_server_and_the_inference_service_import_tracing() -> None:
    outside = {module for module in importers("serving.tracing") if not lies_in(module, "serving.tracing")}

    assert outside == {"serving.api.inference", "serving.lifecycle.server"}


@pytest.mark.parametrize(
    ("module", "known_to"),
    [
        ("serving.lifecycle.server", {"serving.lifecycle.process"}),
        ("serving.lifecycle.process", {"serving.commands.program"}),
        ("serving.commands.program", {"offramp.__main__", "serving.__main__"}),
    ],
)
def test_nothing_but_the_command_line_knows_the_server(module: str, known_to: set[str]) -> None:
    assert importers(module) == known_to


def modules_loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(finished.stdout.split())


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after a statement."""
    return {name.split(".")[0] for name in modules_loaded_by(statement)}


THIRD_PARTY = {
    "google",
    "grpc",
    "matplotlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "opentelemetry",
    "pandas",
    "prometheus_client",
    "pydantic",
    "pygrpc_native",
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


def test_the_light_client_loads_nothing_of_the_server() -> None:
    parts = ("engine", "frontend", "jobs", "monitor", "repository", "server", "stages")

    loaded = modules_loaded_by("import serving.client")

    assert {name for name in loaded if any(lies_in(name, f"serving.{part}") for part in parts)} == set()


def test_what_training_shares_of_serving_loads_neither_grpc_nor_torch() -> None:
    shared = ", ".join(TRAINING_MAY_USE)

    assert not loaded_by(f"import {shared}, serving.repository.manifest") & {"grpc", "torch", "training"}


def test_reading_a_recipe_needs_no_pytorch() -> None:
    program = (
        "from training.recipe.catalogue import catalogue; from training.recipe.recipe import load_recipe"
    )

    assert "torch" not in loaded_by(f"{program}; load_recipe('digits')")
