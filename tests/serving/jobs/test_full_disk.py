"""Jobs while the disk of the training folder is full, or the folder is not usable."""

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


def can_mount() -> bool:
    """Return whether this system lets a process mount a disk in its own namespace."""
    try:
        return subprocess.run([*OWN_DISK, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_mount(), reason="this system does not let processes mount disks")
def test_a_full_disk_refuses_jobs_and_changes_nothing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*OWN_DISK, sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=120
    )

    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout.splitlines()[-1])
    line = (
        f"Overloaded: training folder {tmp_path}/jobs: the job cannot start: No space left on device: "
        "expected 0 bytes free, got 0"
    )
    assert results == {
        "refusals": [line, line],
        "unchanged": True,
        "state": "interrupted",
        "record": "interrupted",
        "after": ["succeeded", "succeeded"],
    }


@pytest.mark.asyncio
async def test_a_failed_resume_leaves_the_job_unchanged(jobs: Jobs, training_dir: Path) -> None:
    job = await start(jobs, crash=True)
    failed = await ended(jobs, job.id)
    (training_dir / job.id / "log.txt").unlink()
    (training_dir / job.id / "log.txt").mkdir()

    with pytest.raises(Overloaded, match=rf"training folder {training_dir}: the job cannot start: Is a dir"):
        await jobs.resume(job.id)

    assert jobs.table.get(job.id) == failed
    assert json.loads((training_dir / job.id / "job.json").read_text())["state"] == "failed"


@pytest.mark.asyncio
@pytest.mark.skipif(not FULL.exists(), reason="needs Linux's /dev/full")
async def test_a_process_whose_id_cannot_be_written_is_killed(jobs: Jobs, training_dir: Path) -> None:
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
async def test_a_removed_training_folder_refuses_jobs(jobs: Jobs, training_dir: Path) -> None:
    await jobs.recipes()
    (training_dir / ".lock").unlink()
    training_dir.rmdir()

    with pytest.raises(Overloaded, match=f"training folder {training_dir}: the job cannot start: No such"):
        await start(jobs)

    assert jobs.table.latest() == []


@pytest.mark.asyncio
async def test_the_files_of_a_job_that_cannot_start_are_removed(
    jobs: Jobs, training_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await jobs.recipes()
    monkeypatch.setattr(jobs._program, "_command", (str(training_dir / "no-such-program"),))

    with pytest.raises(Overloaded, match="the job cannot start"):
        await start(jobs)

    assert [path.name for path in training_dir.iterdir()] == [".lock"]
