"""The memory limit of jobs."""

import sys
from pathlib import Path

import psutil
import pytest

from serving.jobs import memory
from serving.jobs.job import JobState
from serving.jobs.memory import memory_limit
from serving.process_memory import session_bytes
from tests.serving.jobs.conftest import MakeJobs
from tests.serving.jobs.training_jobs import ended, start, start_held, watched
from tests.serving.live_server import eventually

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
MOST = 256 * 2**20


@pytest.mark.asyncio
@linux
async def test_a_job_that_exceeds_its_memory_is_killed_and_its_error_says_so(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(max_memory_bytes=MOST)
    job = await start(jobs, hog=True)
    number = jobs.table.folder(job.id).process_id()

    events, over = await watched(jobs, job.id)

    assert over.state is JobState.FAILED
    assert over.error.startswith(f"memory: expected at most {MOST} bytes, got ")
    assert over.error.endswith(": its process was killed")
    assert events
    assert number is not None
    assert eventually(lambda: session_bytes(number) == 0)


@pytest.mark.asyncio
@linux
async def test_a_job_that_exceeded_its_memory_can_be_resumed(make_jobs: MakeJobs) -> None:
    jobs = make_jobs(max_memory_bytes=MOST)
    job = await start(jobs, hog=True)
    assert (await ended(jobs, job.id)).state is JobState.FAILED

    await jobs.resume(job.id)

    assert (await ended(jobs, job.id)).state is JobState.SUCCEEDED


@pytest.mark.asyncio
@linux
async def test_without_a_setting_jobs_share_half_of_the_memory(make_jobs: MakeJobs) -> None:
    there = memory_limit()

    assert there is not None
    assert make_jobs(max_jobs=3)._limits.max_memory_bytes == there // 2 // 3


@pytest.mark.asyncio
async def test_the_address_space_of_a_job_is_not_limited(make_jobs: MakeJobs) -> None:
    resource = pytest.importorskip("resource")
    jobs = make_jobs(max_memory_bytes=2**30)
    job = await start_held(jobs)

    process = psutil.Process(jobs.table.folder(job.id).process_id())

    assert process.rlimit(resource.RLIMIT_AS) == resource.getrlimit(resource.RLIMIT_AS)


@linux
@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/", {"memory.max": "1000"}, [1000]),
        ("0::/a/b", {"memory.max": "max", "a/memory.max": "700", "a/b/memory.max": "900"}, [900, 700]),
        ("0::/elsewhere", {"memory.max": "500"}, [500]),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": "300"}, [300]),
        ("3:cpu:/a", {"a/memory.max": "1"}, []),
        ("0::/", {}, []),
    ],
)
def test_the_limits_of_a_processs_cgroups_and_their_parents_are_read(
    tmp_path: Path, groups: str, files: dict[str, str], limits: list[int]
) -> None:
    of_process = tmp_path / "cgroup"
    of_process.write_text(groups + "\n")
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text + "\n")

    assert memory._cgroup_limits(of_process, tmp_path / "root") == limits
