"""Trials: a new version's stages are opened and run in a process of their own before this one loads them.

A graph may loop for ever, ask for more memory than there is, or crash: in a trial it takes only its own
process along. Trials run on the CPU, whatever the device is. They run side by side, so a version that
never ends delays no other. A verdict holds for the content of a version, and is kept in memory only.

The process is `python -m serving.trial`, run by `Trials` alone. It ends once its stdin closes, so
it does not outlive its server, and at the latest shortly after its time is over.
"""

import contextlib
import hashlib
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from serving.config import TrialSettings
from serving.errors import MAX_COMPLAINT_CHARACTERS, RepositoryError, first_line, shown
from serving.repository.manifest import Manifest
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.blocks import open_stages
from serving.stages.devices import CPU

AT_ONCE = 4
"""Trials that run side by side."""
POLL_SECONDS = 0.02
REFUSED = 3
"""Exit code of a trial that says on stdout what is wrong with the version."""
STOPPED = "trial: the server stops"
SPARE_SECONDS = 5
"""How long after its time a trial ends by itself, where nobody has ended it."""


class Trials:
    """The trials of one server; safe to use from any thread."""

    def __init__(self, settings: TrialSettings, max_batch_size: int) -> None:
        """Take the bounds, and the largest batch that is run."""
        self._settings = settings
        self._max_batch_size = max_batch_size
        self._pool = ThreadPoolExecutor(AT_ONCE, "trial")
        self._lock = threading.Lock()
        self._verdicts: dict[str, Future[str | None]] = {}
        self._not_started: set[str] = set()
        """Of those, what no process could be had for: that is the machine's fault."""
        self._processes: set[subprocess.Popen[str]] = set()
        self._closed = False

    def verdict(self, version: PublishedVersion) -> Future[str | None]:
        """Return what is wrong with a version, None where nothing, once that is known.

        The first to ask for a version's verdict begins its trial.
        """
        digest = _digest(version.manifest)
        with self._lock:
            if digest not in self._verdicts and not self._closed:
                self._verdicts[digest] = self._pool.submit(self._try, version.folder, digest)
            verdict = self._verdicts.get(digest) or _settled(f"{version.folder}: {STOPPED}")
            if digest in self._not_started and verdict.done():
                self._not_started.remove(digest)
                del self._verdicts[digest]  # the next to ask has it tried again
            return verdict

    def close(self) -> None:
        """Kill the trials that run, and begin no more."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()
        self._pool.shutdown(wait=False)

    def _try(self, folder: Path, digest: str) -> str | None:
        try:
            process = self._start(folder, digest)
        except OSError as error:
            with self._lock:
                self._not_started.add(digest)
            return f"{folder}: trial: cannot be started: {error.strerror}"
        if process is None:
            return f"{folder}: {STOPPED}"
        with process:
            try:
                broken = self._watch(process)
                assert process.stdout is not None, "it was asked for"
                said = process.stdout.read(MAX_COMPLAINT_CHARACTERS)
            finally:
                process.kill()
                with self._lock:
                    self._processes.remove(process)
        return f"{folder}: {broken}" if broken else _verdict(folder, process.returncode, said)

    def _start(self, folder: Path, digest: str) -> subprocess.Popen[str] | None:
        ends_itself = math.ceil(self._settings.max_seconds) + SPARE_SECONDS
        arguments = (str(folder), digest, str(self._max_batch_size), str(ends_itself))
        with self._lock:
            if self._closed:
                return None
            process = subprocess.Popen(  # noqa: S603 - our own module, and a path that is no option
                (sys.executable, "-m", __spec__.name, *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._processes.add(process)
            return process

    def _watch(self, process: subprocess.Popen[str]) -> str | None:
        """Wait for a trial's end, and kill it at a bound; returns which one that was."""
        bounds, began = self._settings, time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
                return None
            taken, memory_bytes = time.monotonic() - began, _peak_bytes(process.pid)
            if memory_bytes > bounds.max_memory_bytes:
                process.kill()
                return (
                    f"trial.max_memory_bytes: expected at most {bounds.max_memory_bytes} bytes of memory, "
                    f"got {memory_bytes}"
                )
            if taken > bounds.max_seconds:
                process.kill()
                return (
                    f"trial.max_seconds: expected it to be over in {bounds.max_seconds:g} s, "
                    f"got no end in {taken:.1f} s"
                )


def _settled(verdict: str) -> Future[str | None]:
    future: Future[str | None] = Future()
    future.set_result(verdict)
    return future


def _digest(manifest: Manifest) -> str:
    """Return a digest of a version's content: the manifest has those of the stage files."""
    return hashlib.sha256(manifest.to_json().encode()).hexdigest()


def _peak_bytes(process: int) -> int:
    """Return the most memory that a process has held so far; 0 where only Linux would tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s*([0-9]+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _verdict(folder: Path, code: int, said: str) -> str | None:
    if code == 0:
        return None
    if code == REFUSED:
        return shown(said, MAX_COMPLAINT_CHARACTERS)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{folder}: trial: expected it to end with exit code 0, got {how}"


def run(folder: Path, digest: str, max_batch_size: int) -> int:
    """Open a version's stages on the CPU and run each at every size of batch; returns the exit code."""
    try:
        version = read_version(folder)
        if _digest(version.manifest) != digest:
            raise RepositoryError(f"{folder}: it was changed since its trial was asked for")
        stages = len(version.manifest.stages)
        open_stages(version, CPU, max_batch_size=max_batch_size, blocks=[1] * stages, idle_threads=1)
    except RepositoryError as error:
        print(first_line(error), end="")
        return REFUSED
    return 0


def _end_with_server(seconds: int) -> None:
    """End this process once its stdin closes, or after so many seconds."""
    signal.alarm(seconds)  # by the system, also where onnxruntime keeps the interpreter's lock

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _offer_to_out_of_memory_killer() -> None:
    """Have Linux end this process, not its server, where memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> int:
    """Run the trial of which the command line speaks."""
    folder, digest, max_batch_size, seconds = sys.argv[1:]
    _end_with_server(int(seconds))
    _offer_to_out_of_memory_killer()
    code = run(Path(folder), digest, int(max_batch_size))
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    os._exit(main())  # at once: what onnxruntime tears down is of no use
