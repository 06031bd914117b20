"""The removal of old jobs and their folders."""

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
    """Return a job that ended, or if it runs was started, `days_ago` days ago."""
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
    return [old.id for old in overdue(jobs, keep_days=keep_days, keep_jobs=keep_jobs, now=NOW)]


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.RUNNING])
def test_a_job_that_ended_too_long_ago_is_removed(state: JobState) -> None:
    assert names([job("old", 91, state), job("young", 89, state)]) == ["old"]


def test_the_oldest_of_too_many_jobs_are_removed() -> None:
    assert names([job("b", 2), job("c", 3), job("a", 1), job("d", 4)], keep_jobs=2) == ["c", "d"]


def test_a_running_job_is_never_removed_and_does_not_count() -> None:
    running = [job("x", 500, JobState.RUNNING), job("y", 0, JobState.RUNNING)]

    assert names([*running, job("a", 1)], keep_jobs=1) == []


@pytest.mark.asyncio
async def test_the_oldest_job_is_removed_when_another_ends(make_jobs: MakeJobs, training_dir: Path) -> None:
    jobs = make_jobs(keep_jobs=2)
    ids = []
    for _ in range(4):
        ids.append((await start(jobs)).id)
        await ended(jobs, ids[-1])
    await jobs.close(5)

    assert [each.id for each in jobs.table.latest()] == [ids[3], ids[2]]
    assert sorted(folders(training_dir)) == sorted(ids[2:])


@pytest.mark.asyncio
async def test_a_starting_server_removes_old_jobs_but_no_running_or_damaged_ones(
    make_jobs: MakeJobs, training_dir: Path
) -> None:
    before = make_jobs()
    old = await start(before)
    await ended(before, old.id)
    await before.close(5)
    record = training_dir / old.id / "job.json"
    written = json.loads(record.read_text())
    ended_seconds = written["ended_seconds"] - 91 * DAY_SECONDS
    record.write_text(json.dumps({**written, "ended_seconds": ended_seconds}))
    damaged = training_dir / ("0" * 16) / "job.json"
    damaged.parent.mkdir()
    damaged.write_text("{")

    jobs: Jobs = make_jobs()
    held = await start_held(jobs)

    assert [each.id for each in jobs.table.latest()] == [held.id]
    assert eventually(lambda: sorted(folders(training_dir)) == sorted([held.id, "0" * 16]))


def folders(training_dir: Path) -> list[str]:
    return [path.name for path in training_dir.iterdir() if path.is_dir()]
