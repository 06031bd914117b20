"""The limits on jobs: how many run, the free disk space they need, their threads and their memory."""

from collections.abc import Collection

from serving.config import TrainingSettings
from serving.errors import Overloaded
from serving.jobs.memory import memory_per_job
from serving.jobs.store import JobStore


class JobLimits:
    """The limits of one training folder."""

    def __init__(self, settings: TrainingSettings, store: JobStore) -> None:
        self._settings = settings
        self._store = store
        self.threads = settings.granted_threads
        """Maximum number of threads of a job."""
        self.max_memory_bytes = settings.max_memory_bytes or memory_per_job(settings.max_jobs)
        """Maximum resident memory of a job's processes; None if the system does not report its memory."""

    def check_room(self, running: Collection[str]) -> None:
        """Raise Overloaded if no further job may start. running: the ids of the running jobs."""
        if len(running) >= self._settings.max_jobs:
            raise Overloaded(
                f"training jobs: expected at most {self._settings.max_jobs} running, got one more; "
                f"running are: {', '.join(running)}"
            )
        self.check_disk()

    def check_disk(self) -> None:
        """Raise Overloaded if less disk space is free than a job needs."""
        if self._store.free_bytes() < self._settings.min_free_bytes:
            raise self.disk_error("too little is free")

    def disk_error(self, reason: str) -> Overloaded:
        """Return the error for a training folder that cannot hold a job, with the free space."""
        needed, free = self._settings.min_free_bytes, self._store.free_bytes()
        return Overloaded(
            f"training folder {self._store.root}: {reason}: expected {needed} bytes free, got {free}"
        )
