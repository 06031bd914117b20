from pathlib import Path

import pytest

from tests.offramp.installation import BASE, RETARGET, Installation, build_wheel, install


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Return an installation without extras."""
    return install(wheel, tmp_path_factory.mktemp("base") / "venv", BASE)


@pytest.fixture(scope="session")
def complete(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Return an installation with all extras."""
    return install(wheel, tmp_path_factory.mktemp("complete") / "venv", None)


@pytest.fixture(scope="session")
def with_retarget(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Return an installation with the extra `retarget`."""
    return install(wheel, tmp_path_factory.mktemp("retarget") / "venv", RETARGET)


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """Return a working directory whose folders and files have the names of Offramp's packages."""
    for name in ("serving", "training", "offramp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the user\\'s own {name}')\n")
    return tmp_path
