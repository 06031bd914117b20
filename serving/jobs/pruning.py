"""Which jobs are forgotten: those that ended too long ago, and the oldest of too many; none that runs."""

from collections.abc import Iterable

from serving.jobs.job import Job

DAY_SECONDS = 86_400.0


def overdue(jobs: Iterable[Job], *, keep_days: float, keep_jobs: int, now: float) -> list[Job]:
    """List the jobs to forget; now is in seconds since the epoch."""
    over = sorted((job for job in jobs if not job.running), key=_ended, reverse=True)
    oldest = now - keep_days * DAY_SECONDS
    return [job for place, job in enumerate(over) if place >= keep_jobs or _ended(job) < oldest]


def _ended(job: Job) -> float:
    return job.started_seconds if job.ended_seconds is None else job.ended_seconds
