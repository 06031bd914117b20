"""Runs the blocks of the page in bash, as an operator does in several terminals."""

import random
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Self

from tests.operations.page import Block
from tests.serving.live_server import eventually

SERVER_PORT, PROMETHEUS_PORT = "8001", "9090"
PORTS = (SERVER_PORT, "8002", "8443", "8444", PROMETHEUS_PORT)
"""The ports of the page. Free ones replace them."""
BELOW_EPHEMERAL_PORTS = range(20_000, 32_000)
"""Linux picks ports for connections from 32768 on, so none of these is taken meanwhile."""
COMMAND_SECONDS = 900.0
DEFAULT_UMASK = 0o022
"""With it, new files are readable by all users unless the page says otherwise."""


class Terminals:
    """Runs blocks in their order, in one folder; the processes that run until stopped end with it."""

    def __init__(
        self,
        blocks: Iterator[Block],
        folder: Path,
        variables: Mapping[str, str],
        not_run: Collection[str],
        replaced: Mapping[str, str],
    ) -> None:
        """Take the environment, the first words of lines to leave out, and texts to replace in commands."""
        self._blocks = blocks
        self._folder = folder
        self._variables = variables
        self._not_run = tuple(not_run)
        self._replaced = dict(replaced)
        self._ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self._last = ""
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._started: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.kill()
            process.communicate()

    def run_next(self, section: str) -> str:
        """Run the next block, which must be of a section; return its stdout."""
        block = next(self._blocks)
        assert block.section == section, f"expected a block of {section}, got {block}"
        lines = [line for line in block.commands.splitlines() if not line.startswith(self._not_run)]
        self._last = "\n".join(lines)
        if lines and block.runs_until_stopped:
            self._start(self._last)
            return ""
        return self.repeat()

    def repeat(self) -> str:
        """Run the last block again; return its stdout."""
        finished = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._adapted(self._last)],
            cwd=self._folder,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            umask=DEFAULT_UMASK,
        )
        assert finished.returncode == 0, f"{self._last}: {finished.stdout}{finished.stderr}"
        return finished.stdout

    def await_output(self, text: str, seconds: float) -> None:
        """Repeat the last block until its output contains a text."""
        assert eventually(lambda: text in self.repeat(), seconds), f"{text} not in {self.repeat()}"

    def reload(self) -> None:
        """Send SIGHUP to the first server."""
        self._running[self._ports[SERVER_PORT]].send_signal(signal.SIGHUP)

    def stop_server(self) -> None:
        """Press Ctrl-C in the terminal of the first server."""
        server = self._running.pop(self._ports[SERVER_PORT])
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
        assert server.returncode == 0

    def start_server(self) -> None:
        """Start the first server again, with the same command."""
        self._start(self._started[self._ports[SERVER_PORT]])

    def is_left(self) -> bool:
        """Return whether a block was not run."""
        return next(self._blocks, None) is not None

    def _start(self, command: str) -> None:
        adapted = self._adapted(command)
        port = next(number for number in self._ports.values() if number in adapted)
        log_path = self._folder / f"log-{port}"
        with log_path.open("w") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {adapted}"],
                cwd=self._folder,
                env=self._variables,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._running[port], self._started[port] = process, command
        if port == self._ports[PROMETHEUS_PORT]:
            assert eventually(lambda: _answers(f"http://127.0.0.1:{port}/-/ready")), log_path.read_text()
        else:
            assert process.stdout
            assert process.stdout.readline().startswith("ready "), log_path.read_text()

    def _adapted(self, commands: str) -> str:
        for text, replacement in self._replaced.items():
            commands = commands.replace(text, replacement)
        return re.sub(rf"\b(?:{'|'.join(PORTS)})\b", lambda port: self._ports[port[0]], commands)


def _free_ports(number: int) -> list[str]:
    """Return free ports that the kernel gives to no other process that asks for any port."""
    candidates = random.sample(BELOW_EPHEMERAL_PORTS, len(BELOW_EPHEMERAL_PORTS))
    return list(islice((str(port) for port in candidates if _is_free(port)), number))


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):  # noqa: S310 - an address of this machine
            return True
    except urllib.error.URLError:
        return False
