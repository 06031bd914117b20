"""Headless Chromium, driven over its debugging pipe: messages are JSON, each followed by a zero byte."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")


class Page:
    """One tab of a browser."""

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = requests, answers
        self._number, self._received = 0, b""
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def send(self, method: str, **parameters: Any) -> Any:  # noqa: ANN401 - any JSON
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        return answer["result"]

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401 - any JSON
        """Return the value of a JavaScript expression."""
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def _next(self) -> Any:  # noqa: ANN401 - any JSON
        while b"\0" not in self._received:
            received = os.read(self._answers, 1 << 20)
            assert received, "the browser ended"
            self._received += received
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)


@contextmanager
def open_page(profile: Path) -> Iterator[Page]:
    """Start a browser with a profile folder of its own, and end it after the block."""
    request_in, request_out = os.pipe()
    answer_in, answer_out = os.pipe()

    def use_pipes() -> None:  # Chromium reads commands from 3 and writes answers to 4
        low, high = os.dup(request_in), os.dup(answer_out)
        os.dup2(low, 3)
        os.dup2(high, 4)

    with subprocess.Popen(
        (str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}"),
        preexec_fn=use_pipes,
        pass_fds=(3, 4, request_in, answer_out),
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(request_in)
        os.close(answer_out)
        try:
            yield Page(request_out, answer_in)
        finally:
            process.kill()
            os.close(request_out)
            os.close(answer_in)
