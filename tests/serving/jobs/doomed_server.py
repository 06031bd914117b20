"""A process that opens jobs like a server, starts one that holds, prints its id, and waits to be killed."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from serving.lifecycle.logs import configure_logs
from tests.serving.jobs.training_jobs import open_jobs, start_held


async def main() -> None:
    jobs = open_jobs(Path(sys.argv[1]))
    job = await start_held(jobs, stubborn=sys.argv[2] == "stubborn")
    print(job.id, flush=True)
    await asyncio.Event().wait()


configure_logs()
asyncio.run(main())
