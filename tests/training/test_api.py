"""The public Python interface, and the example of it in docs/training.md."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import training
from training.data.digits import load_digits
from training.init import proposal

PAGE = Path(__file__).parent.parent.parent / "docs" / "training.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `photos.npz`: 400 digits."""
    source = load_digits()
    np.savez(tmp_path / "photos.npz", x=source.images_NCHW[:400], y=source.truth_N[:400])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example() -> str:
    """Return the example of the page's section."""
    section = PAGE.read_text().split("## From Python")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def test_every_public_name_is_on_the_page() -> None:
    section = PAGE.read_text().split("## From Python")[1].split("\n## ")[0]
    assert [name for name in training.__all__ if f"`{name}" not in section] == []
    assert all(hasattr(training, name) for name in training.__all__)


def test_the_example_of_the_page_trains_and_publishes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposal, "MOST_EPOCHS", 1)
    monkeypatch.setattr(proposal, "WIDTHS", (4,))
    exec(example(), {})  # noqa: S102 - the example of our own page
    assert (folder / "models" / "photos" / "1" / "manifest.json").is_file()
    assert str(folder / "models" / "photos" / "1") in capsys.readouterr().out


def test_a_mistake_is_one_exception_of_the_public_tree(folder: Path) -> None:
    with pytest.raises(training.TrainingError, match="a folder, got neither"):
        training.propose_recipe("nothing.npz")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'training' has no attribute 'fit'"):
        training.fit  # noqa: B018


def test_importing_the_package_does_not_import_pytorch() -> None:
    code = "import sys, training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
