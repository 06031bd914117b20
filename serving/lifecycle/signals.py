"""The stop of the server by signals: the first SIGTERM or SIGINT drains, the second forces the stop."""

import asyncio
import signal
from collections.abc import Callable


class StopSignals:
    """Events that the signals set. Lives on the event loop."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        """Set by the first signal."""
        self.forced = asyncio.Event()
        """Set by the second signal."""

    def watch(self, on_hangup: Callable[[], None]) -> None:
        """Handle the signals from now on. on_hangup: called at SIGHUP."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, on_hangup)

    def _stop(self) -> None:
        (self.forced if self.stopping.is_set() else self.stopping).set()
