"""A model repository that a test changes, and a way to run commands on it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.commands.program import main
from tests.serving import scripted_model

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with versions 1 to 3 of the scripted model."""
    for version in (1, 2, 3):
        scripted_model.publish(tmp_path / "models", version=version)
    return tmp_path / "models"


@pytest.fixture
def run(root: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the repository; return its exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--model-repository", str(root)], prog="offramp")
        return code, *capsys.readouterr()

    return run
