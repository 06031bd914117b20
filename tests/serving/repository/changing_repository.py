"""A model repository on a folder that the test changes, with a loader that records calls."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.errors import RepositoryError
from serving.repository.repository import ModelRepository, PublishedVersion
from tests.serving.scripted_model import make_manifest


def copy(published: Path, root: Path, name: str = "scripted", version: int = 1) -> Path:
    """Copy the scripted model into a repository under another name and version."""
    folder = root / name / str(version)
    shutil.copytree(published, folder)
    (folder / "manifest.json").write_text(make_manifest(name, version, folder).to_json())
    return folder


class Loader:
    """A loader that returns a version's name and number, and records closed versions."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.refuses: set[str] = set()

    def load(self, version: PublishedVersion) -> str:
        loaded = f"{version.manifest.name}/{version.manifest.version}"
        if loaded in self.refuses:
            raise RepositoryError(f"{loaded} does not load")
        return loaded


class Repository:
    """A model repository on a folder that the test changes."""

    def __init__(self, root: Path, published: Path) -> None:
        self.root, self.published, self.loader = root, published, Loader()
        self.repository = self.serving({})

    def serving(self, also: Mapping[str, Sequence[int]]) -> ModelRepository[str]:
        self.repository = ModelRepository(self.root, self.loader.load, self.loader.closed.append, also)
        return self.repository

    def publish(self, version: int, name: str = "scripted") -> Path:
        return copy(self.published, self.root, name, version)

    def rescan(self) -> list[str]:
        return [str(error) for error in self.repository.rescan()]

    def served(self) -> list[str]:
        return [loaded for _, _, loaded in self.repository.served()]
