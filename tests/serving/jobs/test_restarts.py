"""Jobs after their server closed or was killed."""

import asyncio
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from serving.errors import ConfigurationError, JobNotFound, ModelNotReady
from serving.jobs import supervisor
from serving.jobs.job import JobState
from serving.jobs.jobs import Jobs
from tests.serving.jobs.conftest import MakeJobs
from tests.serving.jobs.training_jobs import ended, files_of, start, start_held, watched

pytestmark = pytest.mark.asyncio

DAMAGED_ID = "0" * 16


def kill_a_server(training_dir: Path, kind: str = "obedient") -> str:
    """Kill a server while its job runs, and return the job's id."""
    script = Path(__file__).with_name("doomed_server.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(training_dir), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout
        job_id = server.stdout.readline().strip()
        server.kill()
    assert job_id
    return job_id


async def test_a_closing_server_interrupts_its_jobs(jobs: Jobs, training_dir: Path) -> None:
    job = await start_held(jobs)

    await jobs.close(5)

    record = json.loads((training_dir / job.id / "job.json").read_text())
    assert (record["state"], record["error"]) == ("interrupted", "")
    assert "run" in files_of(training_dir, job)


async def test_a_watch_ends_with_the_interrupted_job(jobs: Jobs) -> None:
    job = await start_held(jobs)
    watching = asyncio.create_task(watched(jobs, job.id))

    await jobs.close(5)

    assert (await watching)[1].state is JobState.INTERRUPTED


async def test_a_closing_server_kills_a_job_that_ignores_sigterm(jobs: Jobs) -> None:
    job = await start_held(jobs, stubborn=True)

    await jobs.close(0.1)

    assert jobs.table.get(job.id).state is JobState.INTERRUPTED


async def test_a_closed_server_refuses_jobs(jobs: Jobs) -> None:
    await jobs.close(5)

    with pytest.raises(ModelNotReady, match="draining"):
        await start(jobs)


async def test_an_interrupted_job_resumes_from_its_last_epoch(make_jobs: MakeJobs) -> None:
    before = make_jobs()
    job = await start_held(before)
    await before.close(5)
    after = make_jobs()
    known = after.table.get(job.id).progress.last_event

    resumed = await after.resume(job.id)
    events, over = await watched(after, job.id, known)

    assert (resumed.state, over.state, over.version) == (JobState.RUNNING, JobState.SUCCEEDED, 1)
    assert [event.number for event in events] == list(range(known + 1, over.progress.last_event + 1))
    assert over.progress.epochs_done == 3


async def test_a_job_of_a_killed_server_is_interrupted_and_can_be_resumed(
    make_jobs: MakeJobs, training_dir: Path
) -> None:
    job_id = kill_a_server(training_dir)

    jobs = make_jobs()

    assert (await ended(jobs, job_id)).state is JobState.INTERRUPTED
    assert jobs.table.get(job_id).progress.epochs_done == 1
    await jobs.resume(job_id)
    assert (await ended(jobs, job_id)).state is JobState.SUCCEEDED


async def test_a_process_that_survives_its_server_is_killed_before_its_job_is_interrupted(
    make_jobs: MakeJobs, training_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "KILL_SECONDS", 0.3)
    job_id = kill_a_server(training_dir, "stubborn")

    jobs = make_jobs()

    assert jobs.table.get(job_id).state is JobState.RUNNING
    assert (await ended(jobs, job_id)).state is JobState.INTERRUPTED
    assert not jobs.table.folder(job_id).has_process()


async def test_a_job_that_published_before_its_server_died_succeeded(
    make_jobs: MakeJobs, training_dir: Path
) -> None:
    jobs = make_jobs()
    job = await start(jobs)
    await ended(jobs, job.id)
    await jobs.close(5)
    record = training_dir / job.id / "job.json"
    record.write_text(record.read_text().replace('"succeeded"', '"running"'))

    again = make_jobs()

    over = await ended(again, job.id)
    assert (over.state, over.version) == (JobState.SUCCEEDED, 1)


async def test_two_servers_cannot_use_one_folder(jobs: Jobs, make_jobs: MakeJobs) -> None:
    with pytest.raises(ConfigurationError, match="another server uses it"):
        make_jobs()


def write_record(training_dir: Path, text: str) -> Path:
    """Write the record of a job DAMAGED_ID."""
    record = training_dir / DAMAGED_ID / "job.json"
    record.parent.mkdir(parents=True)
    record.write_text(text)
    return record


VALID = {
    "id": DAMAGED_ID,
    "recipe": "stand-in",
    "model": "m",
    "overrides": {},
    "serve": False,
    "created_seconds": 1.0,
    "started_seconds": 1.0,
    "state": "running",
}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"id": "x"}', "\0" * 100),
        json.dumps(VALID)[:-20],
        json.dumps({**VALID, "id": "f" * 16}),
        json.dumps({**VALID, "id": "../x"}),
    ],
)
async def test_a_damaged_record_is_logged_in_one_line_and_other_jobs_are_read(
    make_jobs: MakeJobs, training_dir: Path, text: str
) -> None:
    before = make_jobs()
    job = await start(before)
    await ended(before, job.id)
    await before.close(5)
    record = write_record(training_dir, text)

    with structlog.testing.capture_logs() as logged:
        jobs = make_jobs()

    (line,) = [each for each in logged if each["event"] == "training record damaged"]
    assert (line["file"], line["log_level"]) == (str(record), "error")
    assert line["error"]
    assert [each.id for each in jobs.table.latest()] == [job.id]
    assert record.read_text() == text


async def test_a_record_that_is_a_pipe_does_not_block(make_jobs: MakeJobs, training_dir: Path) -> None:
    record = training_dir / DAMAGED_ID / "job.json"
    record.parent.mkdir(parents=True)
    os.mkfifo(record)

    with structlog.testing.capture_logs() as logged:
        assert make_jobs().table.latest() == []

    assert [each["event"] for each in logged] == ["training record damaged"]


async def test_a_damaged_job_is_not_found(make_jobs: MakeJobs, training_dir: Path) -> None:
    write_record(training_dir, "{")

    with pytest.raises(JobNotFound):
        await make_jobs().resume(DAMAGED_ID)


async def test_the_error_names_a_folder_that_cannot_be_created(
    make_jobs: MakeJobs, training_dir: Path
) -> None:
    training_dir.write_text("a file")

    with pytest.raises(ConfigurationError, match=f"training folder {training_dir}: cannot be used"):
        make_jobs()


async def test_a_loss_of_nan_is_read_back(make_jobs: MakeJobs) -> None:
    before = make_jobs()
    job = await start(before, epochs=1, diverge=True)
    await ended(before, job.id)
    await before.close(5)

    loss = make_jobs().table.get(job.id).progress.loss

    assert loss is not None
    assert math.isnan(loss)
