"""Installs the built wheel in a virtual environment, next to packages of this one."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("offramp", "serving", "training", "deploy", "setup.py", "pyproject.toml", "README.md", "LICENSE")
PACKAGES = Path(sysconfig.get_path("purelib"))
BASE = ("numpy", "numpy.libs", "grpc", "google", "typing_extensions.py")
"""What `pip install offramp` puts into site-packages, besides Offramp."""
RETARGET = (
    *BASE,
    *("onnxruntime", "flatbuffers", "packaging", "scipy", "scipy.libs"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_inspection"),
)
"""The same for the extra `retarget`."""
BUILD = "import sys; from setuptools import build_meta; build_meta.{hook}(sys.argv[1])"
DELETED = Path("build", "lib", "offramp", "serving", "deleted.py")
"""A module of an earlier build."""


@dataclass(frozen=True)
class Installation:
    """A virtual environment with the wheel."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python"

    @property
    def offramp(self) -> Path:
        """The script that the wheel installs."""
        return self.folder / "bin" / "offramp"

    @property
    def site_packages(self) -> Path:
        """The folder of the installed packages."""
        return next(self.folder.glob("lib/python*/site-packages"))

    def run(self, *words: str | Path, cwd: Path) -> tuple[int, str, str]:
        """Run a program; return its exit code, stdout and stderr."""
        finished = subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=cwd,
            env=environment(),
            check=False,
        )
        return finished.returncode, finished.stdout, finished.stderr


def environment() -> dict[str, str]:
    """Return this process's environment without PYTHONPATH, so that the checkout is not found."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def copy_sources(folder: Path, *more: str) -> None:
    """Copy the sources, and more files and folders of the checkout, to an existing folder."""
    for name in (*SOURCES, *more):
        if (ROOT / name).is_dir():
            # Other processes write to these folders meanwhile.
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)


def build_wheel(folder: Path) -> Path:
    """Build the source distribution from a copy of the sources, and the wheel from it."""
    sources = folder / "sources"
    sources.mkdir()
    copy_sources(sources)
    _build("build_sdist", sources, folder)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    (unpacked / DELETED).parent.mkdir(parents=True)
    (unpacked / DELETED).touch()
    _build("build_wheel", unpacked, folder)
    return next(folder.glob("*.whl"))


def _build(hook: str, sources: Path, folder: Path) -> None:
    command = [sys.executable, "-c", BUILD.format(hook=hook), str(folder)]
    subprocess.run(command, cwd=sources, check=True, capture_output=True, timeout=60)


def install(wheel: Path, folder: Path, packages: Collection[str] | None) -> Installation:
    """Install a wheel; packages: the names in site-packages that it may also import, or None for all."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    installation = Installation(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(installation.python), "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True, timeout=60
    )
    if packages is None:
        # Python does not read the .pth files in this folder, so the checkout is not found there.
        (installation.site_packages / "others.pth").write_text(f"{PACKAGES}\n")
    for name in packages or ():
        (installation.site_packages / name).symlink_to(PACKAGES / name)
    return installation
