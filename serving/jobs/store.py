"""Where jobs lie on disk: one folder each, and one server at a time.

    <training-dir>/<id>/job.json      the record, written whole
                        events.jsonl  what the process says of itself
                        log.txt       what it writes to stdout and stderr
                        run/          its own output, from which it resumes
                        alive         locked by the process while it lives

Knows nothing of how a job runs. A lock tells a living process from a number that another one has by now.
A damaged record hides its job and nothing else: it is named in the log, and left as it is for repair.
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
    """Draw an id that nobody can guess, and that a URL and a command line can hold."""
    return secrets.token_hex(ID_BYTES)


@dataclass(frozen=True)
class JobFolder:
    """One job's files."""

    path: Path

    @property
    def record(self) -> Path:
        """The record."""
        return self.path / "job.json"

    @property
    def events(self) -> Path:
        """What the process says of itself, a JSON line each."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """What the process writes to stdout and stderr."""
        return self.path / "log.txt"

    @property
    def run(self) -> Path:
        """The process's own output."""
        return self.path / "run"

    def has_output(self) -> bool:
        """Return whether the process has kept anything to resume from."""
        return self.run.is_dir() and any(self.run.iterdir())

    @property
    def alive(self) -> Path:
        """What the process holds locked."""
        return self.path / "alive"

    def write(self, job: Job) -> None:
        """Write the record atomically."""
        self.path.mkdir(exist_ok=True)
        with atomic_write(self.record, mode=0o600) as file:
            file.write(job.model_dump_json(indent=2).encode() + b"\n")

    def lock(self) -> IO[bytes]:
        """Open and lock what its process is to inherit; raise BlockingIOError where one lives."""
        return _locked(self.alive)

    def has_process(self) -> bool:
        """Whether a process of the job lives."""
        try:
            self.lock().close()
        except BlockingIOError:
            return True
        except FileNotFoundError:  # the operator removed the folder
            return False
        return False

    def process_id(self) -> int | None:
        """Return the number of the process that lives; None where it was not written down."""
        text = self.alive.read_bytes()
        return int(text) if text.isdigit() else None

    def last_log_lines(self) -> list[str]:
        """Return the end of the log."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_END_BYTES))
            return log.read().decode(errors="replace").splitlines()
        return []

    def keep_record_alone(self) -> None:
        """Remove all but the record."""
        shutil.rmtree(self.run, ignore_errors=True)
        for path in (self.events, self.log, self.alive):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of it; what can't be removed stays."""
        shutil.rmtree(self.path, ignore_errors=True)


class JobStore:
    """The folder of all jobs, locked while this is open."""

    def __init__(self, root: Path) -> None:
        """Make the folder where it is missing; raise ConfigurationError where it can't be had alone."""
        self.root = root.resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.root / ".lock")
        except BlockingIOError as error:
            raise ConfigurationError(f"training folder {root}: another server uses it") from error
        except OSError as error:
            raise ConfigurationError(f"training folder {root}: cannot be used: {error.strerror}") from error

    def close(self) -> None:
        """Let another server have the folder."""
        self._lock.close()

    def folder(self, job_id: str) -> JobFolder:
        """Return a job's folder, there or not; raise JobNotFound for what is no id."""
        if not re.fullmatch(ID_PATTERN, job_id):
            raise JobNotFound(f"job {shown(repr(job_id))} is not found")
        return JobFolder(self.root / job_id)

    def read_all(self) -> list[Job]:
        """Read every record; a damaged one is left out, and logged in one line."""
        jobs = []
        for path in sorted(self.root.iterdir()):
            record = JobFolder(path).record
            if re.fullmatch(ID_PATTERN, path.name) and path.is_dir():
                try:
                    jobs.append(_read(record))
                except FileNotFoundError:  # its server died before it wrote one
                    continue
                except (OSError, ValueError) as error:
                    complaint = first_complaint(error) if isinstance(error, ValidationError) else str(error)
                    _LOG.error("training record damaged", file=str(record), error=complaint)
        return jobs

    def free_bytes(self) -> int:
        """Return how much the disk still takes; 0 where the folder is gone."""
        try:
            return shutil.disk_usage(self.root).free
        except OSError:
            return 0


def _read(record: Path) -> Job:
    """Read a record; raise OSError or ValueError where it is none."""
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
