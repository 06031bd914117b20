"""Starts and resumes jobs on a full disk, and prints the results as JSON.

Runs in a separate mount namespace, with a small disk at the given folder.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from serving.errors import OfframpError
from tests.serving.jobs.training_jobs import ended, open_jobs, start, start_held

FREE_BYTES = 4096


def fill(disk: Path) -> Path:
    """Fill a disk completely, and return the file that fills it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(FREE_BYTES))
        except OSError:
            return filler


async def refusal_of(work: object) -> str:
    try:
        await work  # type: ignore[misc]
    except OfframpError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


async def main(disk: Path) -> None:
    training_dir = disk / "jobs"
    first = open_jobs(training_dir)
    held = await start_held(first)
    await first.close(5)
    jobs = open_jobs(training_dir)
    filler = fill(disk)
    before = sorted(path.name for path in training_dir.iterdir())
    refusals = [await refusal_of(start(jobs)), await refusal_of(jobs.resume(held.id))]
    unchanged = sorted(path.name for path in training_dir.iterdir()) == before
    states = {job.id: job.state for job in jobs.table.latest()}
    record = json.loads((training_dir / held.id / "job.json").read_text())["state"]
    filler.unlink()
    after = [(await ended(jobs, (await start(jobs)).id)).state]
    await jobs.resume(held.id)
    after.append((await ended(jobs, held.id)).state)
    await jobs.close(5)
    results = {
        "refusals": refusals,
        "unchanged": unchanged,
        "state": states[held.id],
        "record": record,
        "after": after,
    }
    print(json.dumps(results))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True)
    asyncio.run(main(folder))
