"""The training folder: one subfolder for each job. Only one server at a time may use it.

    <training-dir>/<id>/job.json      the record, replaced atomically
                        events.jsonl  the events of the process
                        log.txt       its stdout and stderr
                        run/          its output folder, from which it resumes
                        alive         holds its process id; locked by the process until it ends

The lock shows whether the process is alive. Its process id alone does not, because the system reuses ids.
If a record is damaged, only its job is missing; the file is logged and kept for repair. Independent of how
a job runs.
"""

import contextlib
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog
from pydantic import ValidationError

from serving.errors import ConfigurationError, JobNotFound, first_complaint, shown
from serving.files import atomic_write
from serving.jobs.job import Job

if os.name == "posix":
    import fcntl

_LOG = structlog.get_logger(__name__)

ID_BYTES = 8
ID_PATTERN = r"[0-9a-f]{16}"
LOG_END_BYTES = 4096


def new_id() -> str:
    """Return a random id that is hard to guess and valid in a URL and on a command line."""
    return secrets.token_hex(ID_BYTES)


@dataclass(frozen=True)
class JobFolder:
    """The files of one job, which may not exist."""

    path: Path

    @property
    def record(self) -> Path:
        """The job's record."""
        return self.path / "job.json"

    @property
    def events(self) -> Path:
        """The events of the process, one JSON line each."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """The stdout and stderr of the process."""
        return self.path / "log.txt"

    @property
    def run(self) -> Path:
        """The output folder of the process."""
        return self.path / "run"

    def has_output(self) -> bool:
        """Return whether there is output to resume from."""
        return self.run.is_dir() and any(self.run.iterdir())

    @property
    def alive(self) -> Path:
        """The file that the process keeps locked."""
        return self.path / "alive"

    def write(self, job: Job) -> None:
        """Write the record atomically."""
        self.path.mkdir(exist_ok=True)
        with atomic_write(self.record, mode=0o600) as file:
            file.write(job.model_dump_json(indent=2).encode() + b"\n")

    def lock(self) -> IO[bytes]:
        """Lock and return the file that the process inherits; raise BlockingIOError if a process is alive."""
        return _locked(self.alive)

    def has_process(self) -> bool:
        """Return whether a process of the job is alive."""
        try:
            self.lock().close()
        except BlockingIOError:
            return True
        except FileNotFoundError:  # the operator removed the folder
            return False
        return False

    def process_id(self) -> int | None:
        """Return the process id; None if it was not written."""
        text = self.alive.read_bytes()
        return int(text) if text.isdigit() else None

    def last_log_lines(self) -> list[str]:
        """Return the lines in the last LOG_END_BYTES bytes of the log."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_END_BYTES))
            return log.read().decode(errors="replace").splitlines()
        return []

    def remove_outputs(self) -> None:
        """Remove everything except the record."""
        shutil.rmtree(self.run, ignore_errors=True)
        for path in (self.events, self.log, self.alive):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder; ignore files that cannot be removed."""
        shutil.rmtree(self.path, ignore_errors=True)


class JobStore:
    """The training folder, locked until `close`."""

    def __init__(self, root: Path) -> None:
        """Create and lock the folder; raise ConfigurationError if that fails or another server uses it."""
        self.root = root.resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.root / ".lock")
        except BlockingIOError as error:
            raise ConfigurationError(f"training folder {root}: another server uses it") from error
        except OSError as error:
            raise ConfigurationError(f"training folder {root}: cannot be used: {error.strerror}") from error

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.close()

    def folder(self, job_id: str) -> JobFolder:
        """Return a job's folder, which may not exist; raise JobNotFound if the id is malformed."""
        if not re.fullmatch(ID_PATTERN, job_id):
            raise JobNotFound(f"job {shown(repr(job_id))} is not found")
        return JobFolder(self.root / job_id)

    def read_all(self) -> list[Job]:
        """Read every record; skip and log those that are damaged."""
        jobs = []
        for path in sorted(self.root.iterdir()):
            record = JobFolder(path).record
            if re.fullmatch(ID_PATTERN, path.name) and path.is_dir():
                try:
                    jobs.append(_read(record))
                except FileNotFoundError:  # the server was killed before it wrote the record
                    continue
                except (OSError, ValueError) as error:
                    complaint = first_complaint(error) if isinstance(error, ValidationError) else str(error)
                    _LOG.error("training record damaged", file=str(record), error=complaint)
        return jobs

    def free_bytes(self) -> int:
        """Return the free space of the disk; 0 if the folder was removed."""
        try:
            return shutil.disk_usage(self.root).free
        except OSError:
            return 0


def _read(record: Path) -> Job:
    """Read a record; raise OSError or ValueError if it is not valid."""
    if record.exists() and not record.is_file():
        raise ValueError("expected a regular file, got something else")
    job = Job.model_validate_json(record.read_bytes())
    if job.id != record.parent.name:
        raise ValueError(f"id: expected {record.parent.name}, got {shown(repr(job.id))}")
    return job


def _locked(path: Path) -> IO[bytes]:
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(path.open("ab", buffering=0))
        if os.name == "posix":
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        opened.pop_all()
        return file
