"""`init`, and `run --data`, on the first 600 digits."""

import json
from pathlib import Path

import numpy as np
import pytest

from training.__main__ import MISTAKE, main
from training.data.digits import load_digits
from training.init import proposal
from training.recipe.recipe import load_recipe

ROWS, TEST_ROWS = 480, 120


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file with official test rows."""
    source, path = load_digits(), tmp_path_factory.mktemp("digits") / "own.npz"
    images, truth = source.images_NCHW[: ROWS + TEST_ROWS], source.truth_N[: ROWS + TEST_ROWS]
    np.savez(path, x_train=images[:ROWS], y_train=truth[:ROWS], x_test=images[ROWS:], y_test=truth[ROWS:])
    return path


@pytest.fixture(autouse=True)
def narrow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Propose a narrow network, because measuring a step of a wide one takes a second."""
    monkeypatch.setattr(proposal, "WIDTHS", (4,))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_a_recipe_with_a_reason_for_each_choice_and_prints_the_next_command(
    digits: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--data", str(digits), "--name", "mine", "--minutes", "60"]) == 0
    output = capsys.readouterr()
    assert output.out == "next: python -m training run mine.toml\n"
    assert "480 rows, 120 official test rows, 10 classes" in output.err
    text = (folder / "mine.toml").read_text()
    for key in ("tune_rows", "certify_rows", "crop_padding", "width", "epochs", "epsilon"):
        (line, *_) = [line for line in text.splitlines() if line.startswith(f"{key} = ")]
        assert "# " in line
    recipe = load_recipe("mine.toml")
    section = recipe.dataset
    assert (recipe.model, section.certify_rows) == ("mine", 120)
    assert len(section.load().train) == ROWS - 120 - section.tune_rows - section.temperature_rows


def test_run_with_data_proposes_trains_and_publishes(
    digits: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--minutes", "60", "--set", "schedule.epochs=1")
    assert main(["run", "--data", str(digits), *quick]) == 0
    out = capsys.readouterr().out
    assert out.startswith("published own version 1")
    assert (folder / "own.toml").is_file()
    manifest = json.loads((folder / "models" / "own" / "1" / "manifest.json").read_text())
    assert manifest["operating_points"]["balanced"]["certificate"]["n"] == 120

    assert main(["run", "--data", str(digits), *quick, "--resume"]) == 0
    assert capsys.readouterr().out.startswith("nothing to do, already published own version 1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "--data", "nowhere.npz"], "nowhere.npz: expected an .npz file or a folder, got neither"),
        (
            ["run", "--data", "own.npz", "--resume"],
            "--resume: expected the recipe own.toml of an earlier run",
        ),
        (["run"], "run: expected either RECIPE or --data, got neither"),
        (["run", "digits", "--data", "own.npz"], "run: expected either RECIPE or --data, got both"),
        (["run", "digits", "--name", "mine"], "run: expected --name and --minutes only with --data"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == MISTAKE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "0"], "--minutes: expected a number above 0, got 0"),
        (["--minutes", "nan"], "--minutes: expected a number above 0, got nan"),
        (["--minutes", "0.001"], "for one epoch of the smallest network, got 0.001"),
        (["--name", "two words"], "--name: expected 1 to 64 letters, digits"),
        (["--output", "digits"], "digits: expected a file that ends in .toml"),
        (["--output", "missing/own.toml"], "got no folder missing"),
    ],
)
def test_impossible_options_write_nothing(
    options: list[str], message: str, digits: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--data", str(digits), *options]) == MISTAKE
    assert message in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_recipe_that_exists_is_overwritten_only_by_force(
    digits: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own.toml").write_text("mine")
    assert main(["init", "--data", str(digits)]) == MISTAKE
    error = capsys.readouterr().err
    assert "own.toml: expected no such file" in error
    assert "to train the one that exists: python -m training run own.toml;" in error
    assert (folder / "own.toml").read_text() == "mine"
    assert main(["init", "--data", str(digits), "--force"]) == 0
    assert load_recipe("own.toml").model == "own"


def test_test_rows_that_are_train_rows_must_be_allowed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = load_digits()
    images, truth = source.images_NCHW[:400], source.truth_N[:400]
    np.savez("own.npz", x_train=images, y_train=truth, x_test=images[:50], y_test=truth[:50])
    assert main(["init", "--data", "own.npz"]) == MISTAKE
    assert "got 50 of 50 that are" in capsys.readouterr().err
    assert main(["init", "--data", "own.npz", "--allow-overlap"]) == 0
    assert load_recipe("own.toml").dataset.allow_overlap
