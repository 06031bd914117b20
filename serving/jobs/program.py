"""The training program as a process of its own: how it is called, bounded and stopped.

`python -m training`, unless another command is given. The process holds the job's lock and ends by
itself once its stdin closes, so that it does not outlive its server by much. Knows no job's state.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from serving.errors import Unsupported, first_complaint, shown
from serving.jobs.events import POLL_SECONDS
from serving.jobs.job import Job
from serving.jobs.memory import session_memory
from serving.jobs.recipes import Recipes
from serving.jobs.store import JobFolder

LOWEST_PRIORITY = 19
RECIPES_SECONDS = 120.0
"""How long the program may take to list its recipes: importing PyTorch alone takes seconds."""
THREADS_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
NEEDED_PACKAGES = ("training", "torch")
OWN_PROGRAM = (sys.executable, "-m", "training")


def run_arguments(
    job: Job, folder: JobFolder, model_repository: Path, max_memory_bytes: int | None
) -> list[str]:
    """Return the words behind the command that run a job."""
    overrides = [
        word for key, value in job.overrides.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    bound = [] if max_memory_bytes is None else ["--max-memory-bytes", str(max_memory_bytes)]
    return [
        *("run", job.recipe, "--output", str(folder.run), "--events", str(folder.events)),
        *("--model-repository", str(model_repository), "--model", job.model),
        *(*overrides, *bound, "--stop-with-stdin"),
        *(["--resume"] if folder.has_output() else []),
    ]


class Process(Protocol):
    """A job's process."""

    async def wait(self) -> int | None:
        """Wait for its end; the exit code, negative for a signal, None where nobody can know it."""

    def memory_bytes(self) -> int:
        """Return how much memory it holds, with what it has started."""

    def terminate(self) -> None:
        """Ask it to interrupt itself."""

    def kill(self) -> None:
        """End it, and what it has started."""


class Program:
    """The command, and the processes made from it."""

    def __init__(self, command: Sequence[str] = OWN_PROGRAM) -> None:
        self._command = tuple(command)

    def why_not(self) -> str | None:
        """Return what this installation lacks to run training; None if nothing."""
        missing = [name for name in NEEDED_PACKAGES if find_spec(name) is None]
        if self._command != OWN_PROGRAM or not missing:
            return None
        return f"this installation has no {' and no '.join(missing)}: pip install offramp[training]"

    async def recipes(self) -> Recipes:
        """Ask for the recipes; raise Unsupported where the program can't say."""
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
            raise _cannot_say(f"no answer within {RECIPES_SECONDS:g} s") from error
        finally:
            if process.returncode is None:
                _kill_group(process.pid)
                await process.wait()
        if process.returncode != 0:
            lines = errors.decode(errors="replace").splitlines()
            raise _cannot_say(next(reversed(lines), f"exit code {process.returncode}"))
        try:
            return Recipes.model_validate_json(output)
        except ValidationError as error:
            raise _cannot_say(first_complaint(error)) from error

    async def start(self, arguments: Sequence[str], folder: JobFolder, threads: int) -> "Child":
        """Start it for a job, at the lowest priority; raise OSError where that fails."""
        bounds = dict.fromkeys(THREADS_VARIABLES, str(threads))
        with folder.lock() as alive, folder.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(*self._command, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **bounds, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C is for the server, which tells its jobs itself
                pass_fds=(alive.fileno(),),
            )
            try:
                alive.truncate(0)
                alive.write(str(process.pid).encode())
            except OSError:  # a full disk: nobody would find this process again
                _kill_group(process.pid)
                await process.wait()
                raise
        with contextlib.suppress(ProcessLookupError):  # over already
            os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
        return Child(process)


class Child:
    """A process that this server started."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def wait(self) -> int | None:
        """Wait for its end; what it left running ends with it."""
        code = await self._process.wait()
        _kill_group(self._process.pid)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    def memory_bytes(self) -> int:
        """Return how much memory it holds, with what it has started."""
        return session_memory(self._process.pid)

    def terminate(self) -> None:
        """Ask it to interrupt itself."""
        if self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it, and what it has started."""
        if self._process.returncode is None:
            _kill_group(self._process.pid)


class Orphan:
    """A process that an earlier server left; it ends by itself."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder

    async def wait(self) -> int | None:
        """Wait until none holds the job's lock; its exit code is lost."""
        while self._folder.has_process():
            await asyncio.sleep(POLL_SECONDS)
        return None

    def memory_bytes(self) -> int:
        """Return 0: it ends at once, or is killed."""
        return 0

    def terminate(self) -> None:
        """Leave it be: it saw its stdin close."""

    def kill(self) -> None:
        """End it, and what it has started."""
        if self._folder.has_process() and (number := self._folder.process_id()) is not None:
            _kill_group(number)


def _kill_group(number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a dead one
        os.killpg(number, signal.SIGKILL)


def _cannot_say(why: str) -> Unsupported:
    return Unsupported(f"training is not offered by this server: its program lists no recipes: {shown(why)}")
