"""Fixtures of the repository's tests: a published version to copy, and a repository to change."""

from pathlib import Path

import pytest

from serving.repository.repository import PublishedVersion
from tests.serving.repository.changing_repository import Repository


@pytest.fixture
def published(version: PublishedVersion) -> Path:
    return version.folder


@pytest.fixture
def repo(published: Path, tmp_path: Path) -> Repository:
    root = tmp_path / "models"
    root.mkdir()
    return Repository(root, published)
