"""Jobs from start to end, each with a real process."""

import asyncio
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from serving.errors import InvalidRequest, JobNotFound, Overloaded
from serving.jobs import jobs as jobs_module
from serving.jobs import supervisor
from serving.jobs.events import EpochDone, VersionPublished
from serving.jobs.job import JobState
from serving.jobs.jobs import Jobs
from serving.jobs.watching import read_log, watch
from tests.serving.jobs.conftest import MakeJobs
from tests.serving.jobs.training_jobs import ended, epoch_done, files_of, start, start_held, watched

pytestmark = pytest.mark.asyncio


async def test_a_job_ends_with_the_version_that_it_published(jobs: Jobs, tmp_path: Path) -> None:
    job = await start(jobs, model="digits")

    events, over = await watched(jobs, job.id)

    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert isinstance(events[-1], VersionPublished)
    assert (over.state, over.version, over.error) == (JobState.SUCCEEDED, 1, "")
    assert over.chosen_generation == 2
    assert (tmp_path / "models" / "digits" / "1").is_dir()


async def test_a_job_reports_its_progress(jobs: Jobs) -> None:
    progress = (await ended(jobs, (await start(jobs, epochs=4)).id)).progress

    assert (progress.generation, progress.epochs, progress.epochs_done) == (0, 4, 4)
    assert (progress.loss, progress.tune_accuracy, progress.seconds_left) == (0.25, (0.5, 0.75), 0.0)


async def test_without_a_name_a_job_publishes_under_the_recipes_name(jobs: Jobs) -> None:
    assert (await start(jobs)).model == "stand-in"


async def test_a_job_uses_the_threads_that_the_server_grants(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(threads=3)
    job = await start(jobs)

    text = "".join([piece async for piece in read_log(jobs.table, job.id)])

    assert job.overrides == {"threads": 3}
    assert text.startswith("threads 3, OMP 3\n")


async def test_a_job_may_ask_for_fewer_threads(make_jobs: MakeJobs) -> None:
    assert (await start(make_jobs(threads=3), threads=2)).overrides == {"threads": 2}


async def test_more_threads_than_granted_are_refused(jobs: Jobs) -> None:
    message = r'"threads": expected at most 1, the limit of this server, got 2'
    with pytest.raises(InvalidRequest, match=message):
        await start(jobs, threads=2)


async def test_a_job_above_the_limit_is_refused_until_one_ends(jobs: Jobs) -> None:
    first = await start_held(jobs)

    with pytest.raises(
        Overloaded, match=f"expected at most 1 running, got one more; running are: {first.id}"
    ):
        await start(jobs)

    await jobs.cancel(first.id)
    assert (await ended(jobs, (await start(jobs)).id)).state is JobState.SUCCEEDED


async def test_a_full_disk_refuses_a_job(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(min_free_bytes=2**60)

    with pytest.raises(Overloaded, match=rf"expected {2**60} bytes free, got \d+"):
        await start(jobs)

    assert jobs.table.latest() == []


async def test_an_unknown_recipe_is_refused(jobs: Jobs) -> None:
    with pytest.raises(InvalidRequest, match=r"recipe: expected one of stand-in, got '../secret\.toml'"):
        await jobs.start("../secret.toml", "", {}, serve=False)


@pytest.mark.parametrize("model", ["../digits", "a/b", "-x", "x" * 65, "a\n"])
async def test_an_invalid_model_name_is_refused(jobs: Jobs, model: str) -> None:
    with pytest.raises(InvalidRequest, match="model: expected 1 to 64 letters"):
        await start(jobs, model=model)


async def test_the_last_error_line_of_a_process_is_the_jobs_error(jobs: Jobs) -> None:
    over = await ended(jobs, (await start(jobs, failure="disk: too small")).id)

    assert (over.state, over.error, over.version) == (JobState.FAILED, "disk: too small", None)


async def test_a_job_whose_process_refuses_its_input_is_removed(
    make_jobs: MakeJobs, training_dir: Path
) -> None:
    registry = CollectorRegistry()
    jobs = make_jobs(registry=registry)

    with pytest.raises(InvalidRequest, match=r"^epsilon: too small\\x1b\[2J$"):
        await start(jobs, mistake="epsilon: too small\x1b[2J")

    assert jobs.table.latest() == []
    assert [path.name for path in training_dir.iterdir()] == [".lock"]
    assert registry.get_sample_value("offramp_training_jobs", {"state": "failed"}) == 0
    assert (await ended(jobs, (await start(jobs)).id)).state is JobState.SUCCEEDED


async def test_a_start_returns_if_the_first_event_takes_too_long(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await jobs.recipes()
    monkeypatch.setattr(jobs_module, "START_SECONDS", 0.0)

    job = await start(jobs, mistake="too late to be refused")

    assert job.state is JobState.RUNNING
    over = await ended(jobs, job.id)
    assert (over.state, over.error) == (JobState.FAILED, "too late to be refused")


async def test_a_job_without_events_can_be_cancelled(jobs: Jobs, training_dir: Path) -> None:
    await jobs.recipes()
    starting = asyncio.create_task(start(jobs, hold_at=1))
    while not jobs.table.latest():
        await asyncio.sleep(0)

    await jobs.cancel(jobs.table.latest()[0].id)

    assert (await starting).state is JobState.CANCELLED


async def test_a_process_gets_its_memory_limit_as_an_argument(jobs: Jobs) -> None:
    job = await start_held(jobs)

    process = psutil.Process(jobs.table.folder(job.id).process_id())

    most = process.cmdline()[process.cmdline().index("--max-memory-bytes") + 1]
    assert most == str(jobs._limits.max_memory_bytes)


async def test_a_job_whose_process_was_killed_fails_and_can_be_resumed(jobs: Jobs) -> None:
    job = await start(jobs, crash=True, epochs=2)

    over = await ended(jobs, job.id)

    assert (over.state, over.error) == (JobState.FAILED, "its process was ended by signal 9")
    await jobs.resume(job.id)
    assert (await ended(jobs, job.id)).progress.epochs_done == 2


async def test_a_cancelled_job_keeps_only_its_record(jobs: Jobs, training_dir: Path) -> None:
    job = await start_held(jobs)

    cancelled = await jobs.cancel(job.id)

    assert cancelled.state is JobState.CANCELLED
    assert files_of(training_dir, job) == {"job.json"}


async def test_a_watch_ends_with_the_cancelled_job(jobs: Jobs) -> None:
    job = await start_held(jobs)
    watching = asyncio.create_task(watched(jobs, job.id))

    await jobs.cancel(job.id)

    assert (await watching)[1].state is JobState.CANCELLED


async def test_a_job_cancelled_twice_at_once_is_cancelled(jobs: Jobs) -> None:
    job = await start_held(jobs)

    both = await asyncio.gather(jobs.cancel(job.id), jobs.cancel(job.id))

    assert [each.state for each in both] == [JobState.CANCELLED] * 2
    assert (await jobs.cancel(job.id)).state is JobState.CANCELLED


async def test_cancelling_kills_a_process_that_ignores_sigterm(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "KILL_SECONDS", 0.2)
    job = await start_held(jobs, stubborn=True)

    assert (await jobs.cancel(job.id)).state is JobState.CANCELLED


async def test_a_failed_job_can_be_cancelled(jobs: Jobs, training_dir: Path) -> None:
    job = await start(jobs, failure="no")
    await ended(jobs, job.id)

    await jobs.cancel(job.id)

    assert files_of(training_dir, job) == {"job.json"}


async def test_a_job_that_succeeded_cannot_be_cancelled_or_resumed(jobs: Jobs, training_dir: Path) -> None:
    job = await start(jobs)
    await ended(jobs, job.id)

    with pytest.raises(InvalidRequest, match=f"job {job.id}: expected one that is not done, got succeeded"):
        await jobs.cancel(job.id)
    with pytest.raises(InvalidRequest, match=f"job {job.id}: expected one that is interrupted or failed"):
        await jobs.resume(job.id)
    assert "events.jsonl" in files_of(training_dir, job)


async def test_a_running_job_cannot_be_resumed(jobs: Jobs) -> None:
    job = await start_held(jobs)

    with pytest.raises(InvalidRequest, match="expected one that is interrupted or failed, got running"):
        await jobs.resume(job.id)


async def test_a_version_is_loaded_before_its_job_ends(make_jobs: MakeJobs) -> None:
    states = []

    async def rescan() -> None:
        states.append(jobs.table.latest()[0].state)

    jobs = make_jobs(rescan=rescan)
    await ended(jobs, (await start(jobs, serve=True)).id)
    await ended(jobs, (await start(jobs, serve=False)).id)

    assert states == [JobState.RUNNING]


async def test_a_job_continues_if_its_caller_disconnects_at_once(jobs: Jobs) -> None:
    await jobs.recipes()
    calling = asyncio.create_task(start(jobs))
    while not jobs.table.latest():
        await asyncio.sleep(0)
    calling.cancel()

    assert (await ended(jobs, jobs.table.latest()[0].id)).state is JobState.SUCCEEDED


@pytest.mark.parametrize("job_id", ["", "..", "../jobs", "0" * 16, "a\0b"])
async def test_an_unknown_job_is_not_found(jobs: Jobs, job_id: str) -> None:
    with pytest.raises(JobNotFound, match="is not found"):
        jobs.table.get(job_id)
    with pytest.raises(JobNotFound):
        await jobs.cancel(job_id)
    with pytest.raises(JobNotFound):
        await jobs.resume(job_id)
    with pytest.raises(JobNotFound):
        await anext(watch(jobs.table, job_id))
    with pytest.raises(JobNotFound):
        await anext(read_log(jobs.table, job_id))


async def test_a_watch_after_any_event_yields_each_later_event_once(jobs: Jobs) -> None:
    job = await start(jobs)
    events, _ = await watched(jobs, job.id)

    for known in range(len(events) + 2):
        assert (await watched(jobs, job.id, known))[0] == events[known:]


async def test_many_watches_yield_the_same_events(jobs: Jobs) -> None:
    job = await start(jobs)

    seen = await asyncio.gather(*(watched(jobs, job.id) for _ in range(50)))

    assert all(each == seen[0] for each in seen)


async def test_the_latest_job_is_listed_first(jobs: Jobs) -> None:
    first, second = await start(jobs, failure="a"), None
    await ended(jobs, first.id)
    second = await start(jobs, failure="b")

    assert [job.id for job in jobs.table.latest()] == [second.id, first.id]


async def test_metrics_count_jobs_epochs_and_seconds(make_jobs: MakeJobs) -> None:
    registry = CollectorRegistry()
    jobs = make_jobs(registry=registry)
    await ended(jobs, (await start(jobs, epochs=5)).id)
    await start_held(jobs)

    assert registry.get_sample_value("offramp_training_jobs", {"state": "succeeded"}) == 1
    assert registry.get_sample_value("offramp_training_jobs", {"state": "running"}) == 1
    assert registry.get_sample_value("offramp_training_epochs_total") in {5, 6}
    assert (registry.get_sample_value("offramp_training_seconds_total") or 0) > 0


async def test_a_resume_counts_no_epoch_twice(make_jobs: MakeJobs) -> None:
    registry = CollectorRegistry()
    jobs = make_jobs(registry=registry)
    job = await start(jobs, crash=True, epochs=2)
    await ended(jobs, job.id)
    await jobs.resume(job.id)
    events, _ = await watched(jobs, job.id)

    assert sum(isinstance(event, EpochDone) for event in events) == 2
    assert registry.get_sample_value("offramp_training_epochs_total") == 2


async def test_a_log_is_read_while_it_grows(jobs: Jobs) -> None:
    job = await start_held(jobs)
    log = read_log(jobs.table, job.id)

    assert (await anext(log)).startswith("threads")
    await epoch_done(jobs, job.id, 1)
    await jobs.cancel(job.id)
