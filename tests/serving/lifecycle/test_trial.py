"""Trials of valid, invalid, endless and memory-hungry versions in real processes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.config import TrialSettings
from serving.lifecycle.trial import Trials
from serving.repository.manifest import Manifest
from serving.repository.repository import PublishedVersion, read_version
from tests.serving import scripted_model
from tests.serving.hostile_models import publish_endless, publish_hungry
from tests.serving.live_server import PATIENCE_SECONDS, eventually
from tests.serving.scripted_model import edit

LEAST_MEMORY_BYTES = 256 * 2**20
GIGABYTE = 2**30


@pytest.fixture
def trials() -> Iterator[Trials]:
    yield from make_trials()


@pytest.fixture
def short_trials() -> Iterator[Trials]:
    yield from make_trials(max_seconds=0.5)


@pytest.fixture
def small_trials() -> Iterator[Trials]:
    yield from make_trials(max_memory_bytes=LEAST_MEMORY_BYTES)


def make_trials(**bounds: float) -> Iterator[Trials]:
    made = Trials(TrialSettings.model_validate(bounds), max_batch_size=8)
    yield made
    made.close()
    assert eventually(lambda: not running())


def running() -> list[psutil.Process]:
    """Return the trial processes of this process that have not ended."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "serving.lifecycle.trial" in child.cmdline()]


def verdict(trials: Trials, folder: Path) -> str | None:
    return trials.start(read_version(folder)).result(PATIENCE_SECONDS)


def test_the_process_imports_no_more_than_it_runs() -> None:
    program = "import sys, serving.lifecycle.trial; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "onnxruntime" in loaded
    assert not {"grpc", "google.protobuf", "prometheus_client", "structlog", "asyncio", "torch"} & set(loaded)


def test_a_version_that_runs_passes(trials: Trials, version: PublishedVersion) -> None:
    assert verdict(trials, version.folder) is None


def test_an_endless_version_is_refused_with_the_limit_and_the_time(
    short_trials: Trials, tmp_path: Path
) -> None:
    folder = publish_endless(tmp_path)

    refusal = verdict(short_trials, folder)

    assert refusal is not None
    expected = f"{folder}: trial.max_seconds: expected an end within 0.5 s, got none in "
    assert refusal.startswith(expected)
    assert float(refusal.removeprefix(expected).removesuffix(" s")) >= 0.5


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is limited only on Linux")
def test_a_version_that_uses_too_much_memory_is_refused_with_the_limit_and_its_memory(
    small_trials: Trials, tmp_path: Path
) -> None:
    folder = publish_hungry(tmp_path, 8 * GIGABYTE)

    refusal = verdict(small_trials, folder)

    assert refusal is not None
    expected = (
        f"{folder}: trial.max_memory_bytes: expected at most {LEAST_MEMORY_BYTES} bytes of memory, got "
    )
    assert refusal.startswith(expected)
    assert LEAST_MEMORY_BYTES < int(refusal.removeprefix(expected)) < 2 * GIGABYTE


def test_a_version_that_contradicts_its_manifest_is_refused_as_at_loading(
    trials: Trials, tmp_path: Path
) -> None:
    folder = scripted_model.publish(tmp_path)
    edit(folder, labels=["ant", "bee"])

    assert verdict(trials, folder) == f"{folder}: labels: expected 3, the width of the logits, got 2"


def test_a_process_that_crashes_refuses_its_version(trials: Trials, tmp_path: Path) -> None:
    folder = publish_endless(tmp_path)
    future = trials.start(read_version(folder))
    assert eventually(lambda: bool(running()))
    running()[0].kill()

    assert future.result(PATIENCE_SECONDS) == (f"{folder}: trial: expected exit code 0, got signal 9")


def test_a_version_is_tried_once(trials: Trials, version: PublishedVersion) -> None:
    first = trials.start(version)

    assert trials.start(read_version(version.folder)) is first


def test_a_trial_that_cannot_be_started_is_reported_once_and_repeated(
    trials: Trials, version: PublishedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/nowhere/python")
        begun = trials.start(version)
        refusal = begun.result(PATIENCE_SECONDS)

    assert refusal == f"{version.folder}: trial: cannot be started: No such file or directory"
    assert trials.start(version) is begun
    assert verdict(trials, version.folder) is None


def test_different_content_under_the_same_number_gets_a_new_trial(trials: Trials, tmp_path: Path) -> None:
    folder = scripted_model.publish(tmp_path)
    assert verdict(trials, folder) is None
    edit(folder, labels=["ant", "bee"])

    assert verdict(trials, folder) is not None


def test_a_version_that_is_changed_before_its_trial_is_refused(trials: Trials, tmp_path: Path) -> None:
    folder = scripted_model.publish(tmp_path)
    text = (folder / "manifest.json").read_text()
    older = PublishedVersion(folder, Manifest.model_validate_json(_created_before(text)))

    assert trials.start(older).result(PATIENCE_SECONDS) == (
        f"{folder}: changed since its trial was requested"
    )


def _created_before(text: str) -> str:
    return json.dumps(json.loads(text) | {"created": "2025-01-01T00:00:00Z"})


def test_trials_run_concurrently(trials: Trials, tmp_path: Path, version: PublishedVersion) -> None:
    endless = trials.start(read_version(publish_endless(tmp_path)))

    assert verdict(trials, version.folder) is None
    assert not endless.done()


def test_closing_kills_running_trials_and_starts_no_more(
    trials: Trials, tmp_path: Path, version: PublishedVersion
) -> None:
    future = trials.start(read_version(publish_endless(tmp_path)))
    assert eventually(lambda: bool(running()))
    running()[0].suspend()

    trials.close()

    assert future.result(PATIENCE_SECONDS) is not None
    assert trials.start(version).result(0) == f"{version.folder}: trial: the server is stopping"
    assert not running()
