from pathlib import Path

import pytest

from tests.training.release.tiny_run import IMAGE_SHAPE, run, tiny_network
from training.release.export import export_stages
from training.release.exported_stage import ExportedStage
from training.release.report import render
from training.release.summary import RunSummary


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportedStage, ...]:
    """The stages of tiny_network(0)."""
    return export_stages(tiny_network(0), tmp_path_factory.mktemp("exported"), IMAGE_SHAPE)


@pytest.fixture(scope="session")
def run_summary(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """A real run on digits."""
    folder: Path = tmp_path_factory.mktemp("run")
    return run(folder)


@pytest.fixture(scope="session")
def page(run_summary: RunSummary) -> str:
    """The report of the run as HTML."""
    return render(run_summary)
