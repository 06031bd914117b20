"""Jobs of the stand-in for the training program, which is a real process."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from serving.jobs import events, program, running
from serving.jobs.jobs import Jobs
from tests.serving.jobs.training_jobs import open_jobs

MakeJobs = Callable[..., Jobs]


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (events, program, running):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.01)


@pytest.fixture
def training_dir(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest_asyncio.fixture
async def make_jobs(training_dir: Path) -> AsyncIterator[MakeJobs]:
    """Opens the jobs of the test's training folder, as a server does when it starts."""
    made: list[Jobs] = []

    def make(**more: object) -> Jobs:
        made.append(open_jobs(training_dir, **more))
        return made[-1]

    yield make
    for jobs in made:
        await jobs.close(5)


@pytest_asyncio.fixture
async def jobs(make_jobs: MakeJobs) -> Jobs:
    return make_jobs()
