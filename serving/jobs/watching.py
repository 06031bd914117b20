"""Streams of one job's events and log, from its files. Each stream ends with the job."""

from collections.abc import AsyncIterator

from serving.jobs.events import Event, EventReader, TextReader, follow
from serving.jobs.job import Job
from serving.jobs.table import JobTable


async def watch(jobs: JobTable, job_id: str, after_event: int = 0) -> AsyncIterator[Event | Job]:
    """Yield a job's events whose number is above `after_event`, then the ended job."""
    reader = EventReader(jobs.folder(job_id).events, after_event)
    async for event in follow(reader.read, lambda: not jobs.get(job_id).running):
        yield event
    yield jobs.get(job_id)


async def read_log(jobs: JobTable, job_id: str) -> AsyncIterator[str]:
    """Yield the text that a job's process writes to stdout and stderr."""
    reader = TextReader(jobs.folder(job_id).log)
    async for text in follow(reader.read, lambda: not jobs.get(job_id).running):
        yield text
