"""Run `python -m serving` in a process of its own."""

import json
import re
import select
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from tests.serving.live_server import eventually

START_SECONDS = 60.0
END_SECONDS = 60.0
CANNOT_START = 2
READY = re.compile(
    r"ready grpc=(?P<grpc>[^ ]+:\d+) metrics=(?P<metrics>[^ ]+:\d+) device=(?P<device>\w+) "
    r"front_end=(?P<front_end>\w+)\n"
)


MODULE = ("-m", "serving")


class ServerProcess:
    """A server that is ready at the start of the block and has ended after it."""

    def __init__(
        self,
        models: Path,
        *options: str,
        front_end: str | None = None,
        config: Mapping[str, Mapping[str, object]] | None = None,
        program: Sequence[str] = MODULE,
        stderr: int | None = None,
        trials: bool = False,
    ) -> None:
        """Take options, and settings by section; without a front end the server chooses.

        stderr: a file descriptor for the log; `log` then returns nothing. trials: whether versions are tried
        in a process of their own first, as by default, which doubles the time of a start.
        """
        self._settings = {section: dict(values) for section, values in (config or {}).items()}
        if front_end is not None:
            self._settings.setdefault("server", {})["front_end"] = front_end
        self._settings.setdefault("trial", {"enabled": trials})
        self._stderr = stderr
        self._command = [
            *(sys.executable, *program, "--model-repository", str(models)),
            *("--grpc-port", "0", "--metrics-port", "0", "--device", "cpu", *options),
        ]

    def __enter__(self) -> Self:
        # A file, since a full pipe would block the server.
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "log"
        settings = Path(self._folder.name) / "serving.toml"
        settings.write_text(_toml(self._settings))
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [*self._command, "--config", str(settings)],
                stdout=subprocess.PIPE,
                stderr=log if self._stderr is None else self._stderr,
                text=True,
                bufsize=1,
            )
        self.ready_line = self._read_ready_line()
        found = READY.fullmatch(self.ready_line)
        if not found:
            lines = self.log()
            self._end_forcibly()
            raise AssertionError(f"no ready line but {self.ready_line!r}, log: {lines}")
        self.address, self.metrics_address = found["grpc"], found["metrics"]
        self.front_end = found["front_end"]
        return self

    def __exit__(self, *_: object) -> None:
        self._end_forcibly()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended. Thread-safe."""
        return self.process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> tuple[int, list[str]]:
        """Wait for the end; return the exit code and the lines of stderr."""
        self.process.communicate(timeout=END_SECONDS)
        return self.process.returncode, self.log()

    def stop(self) -> tuple[int, list[str]]:
        """Send SIGTERM and wait for the end."""
        self.send(signal.SIGTERM)
        return self.wait()

    def log(self) -> list[str]:
        """Return the lines of stderr so far."""
        return self._log.read_text().splitlines()

    def await_event(self, event: str) -> str:
        """Wait for an event in the log; return its first line."""
        assert eventually(lambda: bool(self._lines_of(event))), f"no {event!r} in the log"
        return self._lines_of(event)[0]

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as page:
            text = page.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def _lines_of(self, event: str) -> list[str]:
        return [line for line in self.log() if f'"event": "{event}"' in line and line.endswith("}")]

    def _read_ready_line(self) -> str:
        assert self.process.stdout
        readable, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        return self.process.stdout.readline() if readable else ""

    def _end_forcibly(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(END_SECONDS)
        assert self.process.stdout
        self.process.stdout.close()
        self._folder.cleanup()


def _toml(settings: Mapping[str, Mapping[str, object]]) -> str:
    """Format sections as TOML; numbers, strings and lists are the same in JSON."""
    lines: list[str] = []
    for section, values in settings.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines)


def run_serving(*arguments: str, program: Sequence[str] = MODULE) -> tuple[int, str, str]:
    """Run a command to its end; return exit code, stdout and stderr."""
    finished = subprocess.run(
        [sys.executable, *program, *arguments], capture_output=True, text=True, timeout=START_SECONDS
    )
    return finished.returncode, finished.stdout, finished.stderr
