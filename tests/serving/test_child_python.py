import subprocess
from pathlib import Path

import pytest

from serving.child_python import module_command


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the module path with a module that prints its name and arguments."""
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "probe.py").write_text("import sys\nprint(__name__, __spec__.name, sys.argv[1:])\n")
    monkeypatch.syspath_prepend(folder)
    return folder


def test_a_module_runs_as_main_with_its_arguments(library: Path) -> None:
    finished = subprocess.run(
        [*module_command("probe"), "a", "b"], capture_output=True, text=True, cwd=library
    )

    assert (finished.stdout, finished.stderr) == ("__main__ probe ['a', 'b']\n", "")


def test_the_working_directory_is_not_searched(library: Path, tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.mkdir()
    (user / "probe.py").write_text("raise RuntimeError('of the user')\n")

    finished = subprocess.run(module_command("probe"), capture_output=True, text=True, cwd=user)

    assert (finished.stdout, finished.stderr) == ("__main__ probe []\n", "")
