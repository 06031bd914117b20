"""Trials: a separate process opens and runs the stages of a new version before the server loads them.

A graph may loop forever, allocate too much memory or crash; in a trial this ends only the trial's process.
Trials always run on the CPU. They run concurrently, so a version that loops forever does not delay others.
A result is valid for the content of a version, and is kept only in memory.

The process runs this module, and only `Trials` starts it. It ends when its stdin closes,
so it does not outlive its server. It ends itself at the latest SPARE_SECONDS after its time limit.
"""

import contextlib
import hashlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from serving.child_python import module_command
from serving.config import TrialSettings
from serving.errors import MAX_COMPLAINT_CHARACTERS, RepositoryError, first_line, shown
from serving.process_memory import peak_bytes
from serving.repository.manifest import Manifest
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.blocks import open_stages
from serving.stages.devices import CPU

MAX_CONCURRENT = 4
"""Maximum number of concurrent trials."""
POLL_SECONDS = 0.02
REFUSED = 3
"""Exit code of a trial that refuses the version; its stdout is the reason."""
STOPPED = "trial: the server is stopping"
SPARE_SECONDS = 5
"""Time after its limit at which the process of a trial ends itself, if the server has not killed it."""


class Trials:
    """The trials of one server. Thread-safe."""

    def __init__(self, settings: TrialSettings, max_batch_size: int) -> None:
        """Set the limits, and the largest batch to run."""
        self._settings = settings
        self._max_batch_size = max_batch_size
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT, "trial")
        self._lock = threading.Lock()
        self._results: dict[str, Future[str | None]] = {}
        self._not_started: set[str] = set()
        """Digests whose process could not be started; such a result says nothing about the version."""
        self._processes: set[subprocess.Popen[str]] = set()
        self._closed = False

    def start(self, version: PublishedVersion) -> Future[str | None]:
        """Start the trial of a version and return its future result: the reason to refuse it, or None.

        If the trial was started before, return that result.
        """
        digest = _digest(version.manifest)
        with self._lock:
            if digest not in self._results and not self._closed:
                self._results[digest] = self._pool.submit(self._run, version.folder, digest)
            result = self._results.get(digest) or _completed(f"{version.folder}: {STOPPED}")
            if digest in self._not_started and result.done():
                self._not_started.remove(digest)
                del self._results[digest]  # so that the next call starts a new trial
            return result

    def close(self) -> None:
        """Kill all running trials, and start no more."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()
        self._pool.shutdown(wait=False)

    def _run(self, folder: Path, digest: str) -> str | None:
        try:
            process = self._start_process(folder, digest)
        except OSError as error:
            with self._lock:
                self._not_started.add(digest)
            return f"{folder}: trial: cannot be started: {error.strerror}"
        if process is None:
            return f"{folder}: {STOPPED}"
        with process:
            try:
                exceeded = self._watch(process)
                assert process.stdout is not None, "stdout is a pipe"
                output = process.stdout.read(MAX_COMPLAINT_CHARACTERS)
            finally:
                process.kill()
                with self._lock:
                    self._processes.remove(process)
        return f"{folder}: {exceeded}" if exceeded else _reason(folder, process.returncode, output)

    def _start_process(self, folder: Path, digest: str) -> subprocess.Popen[str] | None:
        own_limit_seconds = math.ceil(self._settings.max_seconds) + SPARE_SECONDS
        arguments = (str(folder), digest, str(self._max_batch_size), str(own_limit_seconds))
        with self._lock:
            if self._closed:
                return None
            process = subprocess.Popen(  # noqa: S603 - our own module and arguments
                (*module_command(__spec__.name), *arguments),
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
        """Wait until a trial ends; kill it if it exceeds a limit, and return a message about the limit."""
        limits, started = self._settings, time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
                return None
            seconds, memory_bytes = time.monotonic() - started, peak_bytes(process.pid)
            if memory_bytes > limits.max_memory_bytes:
                process.kill()
                return (
                    f"trial.max_memory_bytes: expected at most {limits.max_memory_bytes} bytes of memory, "
                    f"got {memory_bytes}"
                )
            if seconds > limits.max_seconds:
                process.kill()
                return (
                    f"trial.max_seconds: expected an end within {limits.max_seconds:g} s, "
                    f"got none in {seconds:.1f} s"
                )


def _completed(result: str) -> Future[str | None]:
    future: Future[str | None] = Future()
    future.set_result(result)
    return future


def _digest(manifest: Manifest) -> str:
    """Return a digest of a version's content; the manifest contains the digests of the stage files."""
    return hashlib.sha256(manifest.to_json().encode()).hexdigest()


def _reason(folder: Path, code: int, output: str) -> str | None:
    if code == 0:
        return None
    if code == REFUSED:
        return shown(output, MAX_COMPLAINT_CHARACTERS)
    ending = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{folder}: trial: expected exit code 0, got {ending}"


def run(folder: Path, digest: str, max_batch_size: int) -> int:
    """Open a version's stages on the CPU, warm them up, and return the exit code."""
    try:
        version = read_version(folder)
        if _digest(version.manifest) != digest:
            raise RepositoryError(f"{folder}: changed since its trial was requested")
        stages = len(version.manifest.stages)
        open_stages(version, CPU, max_batch_size=max_batch_size, blocks=[1] * stages, idle_threads=1)
    except RepositoryError as error:
        print(first_line(error), end="")
        return REFUSED
    return 0


def _end_with_server(seconds: int) -> None:
    """End this process when its stdin closes, or after `seconds`."""
    signal.alarm(seconds)  # the signal ends the process even if onnxruntime holds the interpreter's lock

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _raise_out_of_memory_score() -> None:
    """Make Linux kill this process, not its server, if memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> int:
    """Run the trial given by the command line."""
    folder, digest, max_batch_size, seconds = sys.argv[1:]
    _end_with_server(int(seconds))
    _raise_out_of_memory_score()
    code = run(Path(folder), digest, int(max_batch_size))
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    os._exit(main())  # immediately, without onnxruntime's cleanup
