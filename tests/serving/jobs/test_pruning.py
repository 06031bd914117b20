"""Which jobs are kept, and that the others leave nothing."""

import json
from pathlib import Path

import pytest

from serving.jobs.job import Job, JobState
from serving.jobs.jobs import Jobs
from serving.jobs.pruning import DAY_SECONDS, overdue
from tests.serving.jobs.conftest import MakeJobs
from tests.serving.jobs.training_jobs import ended, start, start_held
from tests.serving.live_server import eventually

NOW = 1000 * DAY_SECONDS


def job(name: str, days_ago: float, state: JobState = JobState.FAILED) -> Job:
    """Make a job that ended so many days ago, or runs since."""
    seconds = NOW - days_ago * DAY_SECONDS
    return Job(
        id=name,
        recipe="r",
        model="m",
        overrides={},
        serve=False,
        created_seconds=seconds,
        started_seconds=seconds,
        state=state,
        ended_seconds=None if state is JobState.RUNNING else seconds,
    )


def names(jobs: list[Job], keep_days: float = 90, keep_jobs: int = 1000) -> list[str]:
    return [each.id for each in overdue(jobs, keep_days=keep_days, keep_jobs=keep_jobs, now=NOW)]


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.RUNNING])
def test_a_job_is_forgotten_once_it_is_over_for_too_long(state: JobState) -> None:
    assert names([job("old", 91, state), job("young", 89, state)]) == ["old"]


def test_the_oldest_of_too_many_are_forgotten() -> None:
    assert names([job("b", 2), job("c", 3), job("a", 1), job("d", 4)], keep_jobs=2) == ["c", "d"]


def test_a_job_that_runs_is_never_forgotten_and_takes_no_place() -> None:
    running = [job("x", 500, JobState.RUNNING), job("y", 0, JobState.RUNNING)]

    assert names([*running, job("a", 1)], keep_jobs=1) == []


@pytest.mark.asyncio
async def test_a_job_that_ends_makes_room_by_the_oldest(make_jobs: MakeJobs, training_dir: Path) -> None:
    jobs = make_jobs(keep_jobs=2)
    ids = []
    for _ in range(4):
        ids.append((await start(jobs)).id)
        await ended(jobs, ids[-1])
    await jobs.close(5)

    assert [each.id for each in jobs.table.latest()] == [ids[3], ids[2]]
    assert sorted(folders(training_dir)) == sorted(ids[2:])


@pytest.mark.asyncio
async def test_a_server_that_starts_forgets_old_jobs_and_no_running_or_damaged_ones(
    make_jobs: MakeJobs, training_dir: Path
) -> None:
    before = make_jobs()
    old = await start(before)
    await ended(before, old.id)
    await before.close(5)
    record = training_dir / old.id / "job.json"
    said = json.loads(record.read_text())
    record.write_text(json.dumps({**said, "ended_seconds": said["ended_seconds"] - 91 * DAY_SECONDS}))
    damaged = training_dir / ("0" * 16) / "job.json"
    damaged.parent.mkdir()
    damaged.write_text("{")

    jobs: Jobs = make_jobs()
    held = await start_held(jobs)

    assert [each.id for each in jobs.table.latest()] == [held.id]
    assert eventually(lambda: sorted(folders(training_dir)) == sorted([held.id, "0" * 16]))


def folders(training_dir: Path) -> list[str]:
    return [path.name for path in training_dir.iterdir() if path.is_dir()]
