"""Tracing is off without an endpoint, and needs its packages with one."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.config import TracingSettings
from serving.errors import ConfigurationError
from serving.tracing.opening import open_tracer

ROOT = Path(__file__).resolve().parents[3]
SERVE_A_CALL = """
import sys
from pathlib import Path
from tests.serving.api.inference_calls import infer, request
from tests.serving.live_server import LiveServer

with LiveServer(Path(sys.argv[1]), {"tracing": {"endpoint": sys.argv[2]}} if sys.argv[2:] else {}) as server:
    infer(server, request())
print(*sys.modules)
"""


def modules_of_a_server(models: Path, *endpoint: str) -> set[str]:
    """Return the modules that a server has loaded after a call."""
    command = [sys.executable, "-c", SERVE_A_CALL, str(models), *endpoint]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return set(finished.stdout.split())


def test_a_server_imports_opentelemetry_only_with_an_endpoint(models: Path) -> None:
    assert "opentelemetry" not in modules_of_a_server(models)
    assert "opentelemetry" in modules_of_a_server(models, "http://127.0.0.1:9")


def test_by_default_there_is_no_tracer() -> None:
    assert open_tracer(TracingSettings()) is None


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "serving.tracing.provider", raising=False)

    with pytest.raises(ConfigurationError) as refusal:
        open_tracer(TracingSettings(endpoint="http://127.0.0.1:4317"))

    message = str(refusal.value)
    assert message.startswith('tracing.endpoint needs the extra "tracing", because opentelemetry')
    assert message.endswith('is not installed: pip install "offramp[tracing]"')


def test_an_invalid_variable_of_the_sdk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")

    with pytest.raises(
        ConfigurationError, match=r"^tracing: an OTEL_\* environment variable is invalid: .*soon"
    ):
        open_tracer(TracingSettings(endpoint="http://127.0.0.1:4317"))
