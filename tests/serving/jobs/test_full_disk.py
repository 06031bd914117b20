"""Jobs where the training folder's disk takes no more."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from serving.errors import Overloaded
from serving.jobs.job import JobState
from serving.jobs.jobs import Jobs
from tests.serving.jobs.training_jobs import ended, start

SCRIPT = Path(__file__).with_name("on_full_disk.py")
OWN_DISK = ("unshare", "--user", "--map-root-user", "--mount")
FULL = Path("/dev/full")


def may_mount() -> bool:
    """Whether a process here may have a disk of its own."""
    try:
        return subprocess.run([*OWN_DISK, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_mount(), reason="this system gives processes no mounts of their own")
def test_a_full_disk_refuses_jobs_and_leaves_all_as_it_was(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*OWN_DISK, sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=120
    )

    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout.splitlines()[-1])
    line = (
        f"Overloaded: training folder {tmp_path}/jobs: the job cannot start: No space left on device: "
        "expected 0 bytes free, got 0"
    )
    assert seen == {
        "refusals": [line, line],
        "kept": True,
        "state": "interrupted",
        "record": "interrupted",
        "over": ["succeeded", "succeeded"],
    }


@pytest.mark.asyncio
async def test_a_job_that_cannot_be_resumed_stays_as_it_was(jobs: Jobs, training_dir: Path) -> None:
    job = await start(jobs, crash=True)
    over = await ended(jobs, job.id)
    (training_dir / job.id / "log.txt").unlink()
    (training_dir / job.id / "log.txt").mkdir()

    with pytest.raises(Overloaded, match=rf"training folder {training_dir}: the job cannot start: Is a dir"):
        await jobs.resume(job.id)

    assert jobs.table.get(job.id) == over
    assert json.loads((training_dir / job.id / "job.json").read_text())["state"] == "failed"


@pytest.mark.asyncio
@pytest.mark.skipif(not FULL.exists(), reason="needs Linux's device that is always full")
async def test_a_process_whose_number_cannot_be_written_down_is_ended(jobs: Jobs, training_dir: Path) -> None:
    job = await start(jobs, crash=True)
    await ended(jobs, job.id)
    (training_dir / job.id / "alive").unlink()
    (training_dir / job.id / "alive").symlink_to(FULL)
    before = set(psutil.Process().children())

    with pytest.raises(Overloaded):
        await jobs.resume(job.id)

    assert set(psutil.Process().children()) <= before
    assert jobs.table.get(job.id).state is JobState.FAILED


@pytest.mark.asyncio
async def test_a_training_folder_that_is_gone_refuses_jobs(jobs: Jobs, training_dir: Path) -> None:
    await jobs.recipes()
    (training_dir / ".lock").unlink()
    training_dir.rmdir()

    with pytest.raises(Overloaded, match=f"training folder {training_dir}: the job cannot start: No such"):
        await start(jobs)

    assert jobs.table.latest() == []


@pytest.mark.asyncio
async def test_what_a_job_that_cannot_start_wrote_is_removed(
    jobs: Jobs, training_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await jobs.recipes()
    monkeypatch.setattr(jobs._program, "_command", (str(training_dir / "no-such-program"),))

    with pytest.raises(Overloaded, match="the job cannot start"):
        await start(jobs)

    assert [path.name for path in training_dir.iterdir()] == [".lock"]
