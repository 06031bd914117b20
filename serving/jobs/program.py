"""The training program and its processes: start, wait, memory, terminate, kill.

The program is `python -m training`, unless another command is configured. Its process holds the lock of its
job's folder. It ends soon after its stdin closes. The stdin also closes when the server ends.
Independent of a job's state.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from serving.child_python import module_command
from serving.errors import Unsupported, first_complaint, shown
from serving.jobs.events import POLL_SECONDS
from serving.jobs.job import Job
from serving.jobs.recipes import Recipes
from serving.jobs.store import JobFolder
from serving.process_memory import session_bytes

LOWEST_PRIORITY = 19
RECIPES_SECONDS = 120.0
"""Longest time to list the recipes; importing PyTorch alone takes seconds."""
THREADS_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
TRAINING = f"{__name__.removesuffix('serving.jobs.program')}training"
NEEDED_PACKAGES = (TRAINING, "torch")
OWN_PROGRAM = module_command(TRAINING)


def run_arguments(
    job: Job, folder: JobFolder, model_repository: Path, max_memory_bytes: int | None
) -> list[str]:
    """Return the program's arguments that run a job."""
    overrides = [
        word for key, value in job.overrides.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    memory = [] if max_memory_bytes is None else ["--max-memory-bytes", str(max_memory_bytes)]
    return [
        *("run", job.recipe, "--output", str(folder.run), "--events", str(folder.events)),
        *("--model-repository", str(model_repository), "--model", job.model),
        *(*overrides, *memory, "--stop-with-stdin"),
        *(["--resume"] if folder.has_output() else []),
    ]


class Process(Protocol):
    """A job's process, with the processes that it started."""

    async def wait(self) -> int | None:
        """Wait for its end; return the exit code, negative for a signal, or None if it is unknown."""

    def memory_bytes(self) -> int:
        """Return its resident memory, including processes that it started."""

    def terminate(self) -> None:
        """Send SIGTERM, which makes it write a checkpoint and stop."""

    def kill(self) -> None:
        """Kill it and the processes that it started."""


class Program:
    """The training program, which lists recipes and runs jobs."""

    def __init__(self, command: Sequence[str] = OWN_PROGRAM) -> None:
        self._command = tuple(command)

    def unavailable_reason(self) -> str | None:
        """Return why training cannot run in this installation; None if it can."""
        missing = [name for name in NEEDED_PACKAGES if find_spec(name) is None]
        if self._command != OWN_PROGRAM or not missing:
            return None
        return f'this installation has no {" and no ".join(missing)}: pip install "offramp[training]"'

    async def recipes(self) -> Recipes:
        """Return the recipes; raise Unsupported if the program does not list them."""
        process = await asyncio.create_subprocess_exec(
            *(*self._command, "recipes", "--json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), RECIPES_SECONDS)
        except TimeoutError as error:
            raise _no_recipes(f"no answer within {RECIPES_SECONDS:g} s") from error
        finally:
            if process.returncode is None:
                _kill_group(process.pid)
                await process.wait()
        if process.returncode != 0:
            lines = errors.decode(errors="replace").splitlines()
            raise _no_recipes(next(reversed(lines), f"exit code {process.returncode}"))
        try:
            return Recipes.model_validate_json(output)
        except ValidationError as error:
            raise _no_recipes(first_complaint(error)) from error

    async def start(self, arguments: Sequence[str], folder: JobFolder, threads: int) -> "Child":
        """Start a process for a job at the lowest priority; raise OSError if that fails."""
        thread_limits = dict.fromkeys(THREADS_VARIABLES, str(threads))
        with folder.lock() as alive, folder.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(*self._command, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **thread_limits, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C must reach only the server, which then stops its jobs
                pass_fds=(alive.fileno(),),
            )
            try:
                alive.truncate(0)
                alive.write(str(process.pid).encode())
            except OSError:  # the disk is full; a restarted server could not find this process
                _kill_group(process.pid)
                await process.wait()
                raise
        with contextlib.suppress(ProcessLookupError):  # it has already ended
            os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
        return Child(process)


class Child:
    """A process that this server started."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def wait(self) -> int | None:
        """Wait for its end, then kill the processes that it left running."""
        code = await self._process.wait()
        _kill_group(self._process.pid)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    def memory_bytes(self) -> int:
        """Return its resident memory, including processes that it started."""
        return session_bytes(self._process.pid)

    def terminate(self) -> None:
        """Send SIGTERM, which makes it write a checkpoint and stop."""
        if self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it and the processes that it started."""
        if self._process.returncode is None:
            _kill_group(self._process.pid)


class Orphan:
    """A process of an earlier server; it stops because its stdin is closed."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder

    async def wait(self) -> int | None:
        """Wait until no process holds the job's lock; return None, because the exit code is lost."""
        while self._folder.has_process():
            await asyncio.sleep(POLL_SECONDS)
        return None

    def memory_bytes(self) -> int:
        """Return 0: its memory is not limited, because it stops soon or is killed."""
        return 0

    def terminate(self) -> None:
        """Do nothing: it already stops."""

    def kill(self) -> None:
        """Kill it and the processes that it started."""
        if self._folder.has_process() and (process_id := self._folder.process_id()) is not None:
            _kill_group(process_id)


def _kill_group(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a zombie
        os.killpg(process_id, signal.SIGKILL)


def _no_recipes(reason: str) -> Unsupported:
    return Unsupported(
        f"training is not offered by this server: its program lists no recipes: {shown(reason)}"
    )
