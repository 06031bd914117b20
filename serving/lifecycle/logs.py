"""Structured logs: one JSON line per event on stderr. Stdout is reserved for the ready line.

Logging never blocks and never raises. Lines wait in a bounded queue until one thread writes them. A line that
does not fit or cannot be written is dropped and counted. The rate of each event is limited, so that no client
can fill the disk. This module does not write through sys.stderr: a thread that holds its lock may block on a
full pipe.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from structlog.typing import EventDict

MAX_LINES = 10_000
"""Maximum number of waiting lines."""
MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of all waiting lines."""
BURST_LINES = 100
"""Number of lines of one event name that may be logged at once."""
LINES_PER_SECOND = 10.0
"""Rate of lines of one event name after a burst."""
MAX_NAMES = 256
"""Number of event names with a separate limit; further names share one."""

_OTHER_NAMES = "(other names)"
_NEWLINE = ord("\n")

_add_level = structlog.processors.add_log_level
_add_time = structlog.processors.TimeStamper(fmt="iso", utc=True)
_add_exception = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # locals hold whole requests
)
_to_json = structlog.processors.JSONRenderer()

_LOG = structlog.get_logger(__name__)


def render_line(_: object, method: str, event: EventDict) -> str:
    """Return an event as a JSON line with level and UTC time; structlog's last processor.

    If a field cannot be rendered, the line reports that instead, so that logging never raises.
    """
    name = event.get("event")
    try:
        event = _add_exception(None, method, _add_time(None, method, _add_level(None, method, event)))
        return str(_to_json(None, method, event))
    except Exception as error:
        known = name if isinstance(name, str) else type(name).__name__
        problem = {"event": "log line not rendered", "of": known, "error": type(error).__name__}
        return render_line(None, method, problem)


class LogWriter:
    """Writes lines to a file descriptor in a separate thread. Has the methods of structlog's loggers.

    Any thread may log, and a signal handler or finalizer may log during another log call. So all locks here
    must be reentrant; the one of queue.Queue is not.
    """

    def __init__(
        self, descriptor: int = 2, *, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES
    ) -> None:
        self._descriptor = descriptor
        self._max_lines, self._max_bytes = max_lines, max_bytes
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._waiting_bytes = 0
        self._dropped = 0
        self._dropped_and_logged = 0
        self._stopped_in_line = False
        """Whether the last write stopped inside a line."""
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Number of lines that did not fit into the queue or could not be written."""
        return self._dropped

    def msg(self, line: str) -> None:
        """Queue a line, or drop it if the queue is full."""
        written = line.encode(errors="backslashreplace") + b"\n"
        with self._lock:
            bytes_after = self._waiting_bytes + len(written)
            if self._lines.qsize() >= self._max_lines or bytes_after > self._max_bytes:
                self._dropped += 1
                return
            self._waiting_bytes = bytes_after
            self._lines.put(written)

    debug = info = warning = error = critical = msg

    def close(self, seconds: float) -> None:
        """Stop after all waiting lines were written or dropped; wait at most `seconds`."""
        self._lines.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            written = self._write(line)
            with self._lock:
                self._waiting_bytes -= len(line)
                self._dropped += not written
            if written and self._lines.empty():
                self._log_dropped()
        self._log_dropped()

    def _write(self, line: bytes) -> bool:
        """Write a line; return whether it was written completely."""
        left = memoryview(b"\n" + line if self._stopped_in_line else line)
        try:
            while left:
                count = os.write(self._descriptor, left)
                self._stopped_in_line = left[count - 1] != _NEWLINE
                left = left[count:]
        except OSError:
            return False
        return True

    def _log_dropped(self) -> None:
        """Write a line with the number of lines dropped since the previous such line."""
        dropped = self._dropped - self._dropped_and_logged
        if not dropped:
            return
        line = render_line(None, "warning", {"event": "log lines dropped", "lines": dropped})
        if self._write(line.encode() + b"\n"):
            self._dropped_and_logged += dropped


@dataclass
class _Bucket:
    """The lines of one name: how many may be written now, and how many were suppressed."""

    tokens: float
    filled_at: float
    suppressed: int = 0


class RateLimit:
    """A token bucket for each event name. As structlog's first processor it drops events above the rate."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the clock, which returns seconds."""
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.RLock()  # a finalizer may log while the lock is held

    def __call__(self, _: object, __: str, event: EventDict) -> EventDict:
        """Return the event with the number of suppressed ones before it; raise DropEvent above the rate."""
        if suppressed := self.admit(str(event.get("event"))):
            event["suppressed"] = suppressed
        return event

    def admit(self, name: str) -> int:
        """Count a line; return how many lines of this name were suppressed since the last admitted one.

        Raises DropEvent if the line is above the rate.
        """
        with self._lock:
            now = self._clock()
            bucket = self._buckets.get(name) or self._add_bucket(name, now)
            refilled = bucket.tokens + LINES_PER_SECOND * (now - bucket.filled_at)
            bucket.tokens, bucket.filled_at = min(refilled, BURST_LINES), now
            if bucket.tokens < 1:
                bucket.suppressed += 1
                raise structlog.DropEvent
            bucket.tokens -= 1
            suppressed, bucket.suppressed = bucket.suppressed, 0
            return suppressed

    def _add_bucket(self, name: str, now: float) -> _Bucket:
        if len(self._buckets) >= MAX_NAMES:
            name = _OTHER_NAMES
        return self._buckets.setdefault(name, _Bucket(BURST_LINES, now))


class StandardHandler(logging.Handler):
    """Sends records of Python's `logging` to a writer, such as those of asyncio and grpc, and warnings.

    The rate is limited for each logger, because the messages are free text, not event names.
    """

    def __init__(self, writer: LogWriter, limit: RateLimit) -> None:
        super().__init__()
        self._writer, self._limit = writer, limit

    def emit(self, record: logging.LogRecord) -> None:
        """Render and queue a record."""
        event: EventDict = {"logger": record.name, "exc_info": record.exc_info}
        try:
            if suppressed := self._limit.admit(record.name):
                event["suppressed"] = suppressed
            event["event"] = record.getMessage()
        except structlog.DropEvent:
            return
        except Exception as error:  # arguments that do not fit the message
            event.update(event=record.msg, error=type(error).__name__)
        self._writer.msg(render_line(None, record.levelname.lower(), event))


def configure_logs(descriptor: int = 2) -> LogWriter:
    """Send structlog's events, the standard library's logs and uncaught errors to stderr as JSON lines."""
    writer, limit = LogWriter(descriptor), RateLimit()
    structlog.configure(
        processors=[limit, render_line],  # the limit comes first because rendering is slow
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[StandardHandler(writer, limit)], force=True)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_failed
    sys.unraisablehook = _log_ignored
    return writer


def _log_thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Log the exception that ended a thread. Python's own hook prints to stderr and may block there."""
    if failed.exc_type is not SystemExit:
        name = None if failed.thread is None else failed.thread.name
        exc_info = (failed.exc_type, failed.exc_value, failed.exc_traceback)
        _LOG.error("thread failed", thread=name, exc_info=exc_info)


def _log_ignored(ignored: "sys.UnraisableHookArgs") -> None:
    """Log an error that cannot be caught, such as one in a finalizer."""
    exc_info = (ignored.exc_type, ignored.exc_value, ignored.exc_traceback)
    _LOG.error("error ignored", of=ignored.object, exc_info=exc_info)
