"""Chooses the ended jobs to remove: those that ended too long ago, and the oldest if there are too many."""

from collections.abc import Iterable

from serving.jobs.job import Job

DAY_SECONDS = 86_400.0


def overdue(jobs: Iterable[Job], *, keep_days: float, keep_jobs: int, now: float) -> list[Job]:
    """Return the jobs to remove; a running job is never among them. now: seconds since the epoch."""
    ended = sorted((job for job in jobs if not job.running), key=_ended_seconds, reverse=True)
    oldest = now - keep_days * DAY_SECONDS
    return [job for rank, job in enumerate(ended) if rank >= keep_jobs or _ended_seconds(job) < oldest]


def _ended_seconds(job: Job) -> float:
    return job.started_seconds if job.ended_seconds is None else job.ended_seconds
