"""The built wheel: what it contains, and how it runs where it is installed."""

import ast
import re
import subprocess
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from offramp.__main__ import CLIENT, JOBS, SERVER, TRAINING
from serving.commands.monitoring import FILES
from tests.offramp.installation import ROOT, Installation
from tests.offramp.serving_installation import RELEASED, RELEASED_VERSION, server

CLIENT_PROGRAM = """
from offramp.serving.client import Client

label: str = Client("127.0.0.1:8001").predict("digits", [[0]]).label_N
"""


def test_the_wheel_has_one_top_level_package(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names} == {"offramp", "offramp-0.1.0.dist-info"}


def test_the_wheel_has_every_file_of_the_sources(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "offramp", "serving", "training"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    sources = {name if name.startswith("offramp/") else f"offramp/{name}" for name in listed}

    monitoring = {f"offramp/deploy/{name}" for name in FILES}

    assert "offramp/py.typed" in sources
    assert {name for name in ZipFile(wheel).namelist() if name.startswith("offramp/")} == sources | monitoring


def test_no_module_of_the_wheel_imports_a_top_level_serving_or_training(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".py"):
                for node in ast.walk(ast.parse(archive.read(name))):
                    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                    if isinstance(node, ast.ImportFrom):
                        modules.append(node.module or "")
                    assert not {module.split(".")[0] for module in modules} & {"serving", "training"}, name


def test_the_client_is_typed_for_its_users(complete: Installation, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(CLIENT_PROGRAM)

    code, output, errors = complete.run(complete.python, "-m", "mypy", "program.py", cwd=tmp_path)

    assert (code, errors) == (1, "")
    assert 'expression has type "ndarray[' in output
    assert 'variable has type "str"' in output
    assert "import-untyped" not in output


@pytest.mark.parametrize("command", [*SERVER.commands, *TRAINING.commands])
def test_a_command_names_its_missing_extra_in_one_line(
    base: Installation, tmp_path: Path, command: str
) -> None:
    extra = "serving" if command in SERVER.commands else "training"
    extra = "retarget" if command == "retarget" else extra
    words = {
        "init": ["--data", "rows.npz"],
        "train": ["digits"],
        "attach": ["model.onnx", "--data", "rows.npz", "--name", "mine"],
        "retarget": ["digits", "1"],
        "study": ["fashion-mnist"],
        "monitoring": ["folder"],
    }.get(command, [])

    code, output, errors = base.run(base.offramp, command, *words, cwd=tmp_path)

    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert re.fullmatch(
        rf'offramp: error: offramp {command} needs the extra "{extra}", because \w+ is not installed: '
        rf'pip install "offramp\[{extra}\]"\n',
        errors,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "extra"), [(("serving",), "serving"), (("training", "run", "digits"), "training")]
)
def test_a_program_names_its_missing_extra_in_one_line(
    base: Installation, tmp_path: Path, words: tuple[str, ...], extra: str
) -> None:
    module, *more = words

    code, output, errors = base.run(base.python, "-m", f"offramp.{module}", *more, cwd=tmp_path)

    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"offramp: error: python -m offramp.{' '.join(words[:2])} needs the extra")
    assert errors.endswith(f'pip install "offramp[{extra}]"\n')


@pytest.mark.parametrize(
    "words",
    [*((name, "--help") for name in CLIENT.commands), *(("jobs", name, "--help") for name in JOBS.commands)],
)
def test_the_client_needs_no_extra(base: Installation, tmp_path: Path, words: tuple[str, ...]) -> None:
    code, output, errors = base.run(base.offramp, *words, cwd=tmp_path)

    assert (code, errors) == (0, "")
    assert output.startswith("usage: offramp ")


def test_a_user_keeps_a_package_named_serving(base: Installation, tmp_path: Path) -> None:
    package = base.site_packages / "serving"
    package.mkdir()
    (package / "__init__.py").write_text("owner = 'user'\n")
    program = "import serving, offramp.serving.client; print(serving.owner, offramp.__version__)"

    assert base.run(base.python, "-c", program, cwd=tmp_path) == (0, "user 0.1.0\n", "")


def test_folders_of_the_same_names_do_not_disturb_a_server_and_its_processes(
    complete: Installation, crowded: Path
) -> None:
    # The trial of the released model is one process, and the list of the recipes another.
    with server(complete, crowded, "--enable-training") as address:
        healthy = complete.run(complete.offramp, "health", "--address", address, cwd=crowded)
        listed = complete.run(complete.offramp, "jobs", "recipes", "--address", address, cwd=crowded)

    assert healthy == (0, "serving\n", "")
    assert (listed[0], listed[2]) == (0, "")
    assert "digits" in listed[1]


def test_an_installation_has_the_files_for_monitoring(complete: Installation, tmp_path: Path) -> None:
    code, output, errors = complete.run(complete.offramp, "monitoring", "monitoring", cwd=tmp_path)

    assert (code, errors) == (0, "")
    for name, line in zip(FILES[1:], output.splitlines()[1:], strict=True):
        assert (tmp_path / line).read_bytes() == (ROOT / "deploy" / name).read_bytes()


@pytest.mark.parametrize(
    "words", [("models", "--model-repository", str(RELEASED)), ("recipes", "digits"), ("train", "--help")]
)
def test_folders_of_the_same_names_do_not_disturb_a_command(
    complete: Installation, crowded: Path, words: tuple[str, ...]
) -> None:
    code, output, errors = complete.run(complete.offramp, *words, cwd=crowded)

    assert (code, errors) == (0, "")
    assert output


def test_the_extra_retarget_is_enough_to_retarget(with_retarget: Installation, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x=images, y=np.arange(1000) % 10)
    words = (
        "fashion-mnist",
        str(RELEASED_VERSION),
        "--model-repository",
        RELEASED,
        "--data",
        "own.npz",
        "--force",
        "--dry-run",
    )

    code, output, errors = with_retarget.run(
        with_retarget.offramp, "retarget", *words, "--epsilon", "0.03", cwd=tmp_path
    )

    assert code == 0, errors
    assert output.startswith(f"fashion-mnist version {RELEASED_VERSION + 1}, ")


def test_a_command_beyond_the_installed_extra_names_its_own(
    with_retarget: Installation, tmp_path: Path
) -> None:
    code, _, errors = with_retarget.run(with_retarget.offramp, "train", "digits", cwd=tmp_path)

    assert (code, errors.count("\n")) == (2, 1)
    assert errors.endswith('pip install "offramp[training]"\n')
