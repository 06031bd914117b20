import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import structlog

from serving.lifecycle.logs import (
    BURST_LINES,
    MAX_NAMES,
    LogWriter,
    RateLimit,
    StandardHandler,
    render_line,
)
from tests.serving.live_server import eventually

FULL_DISK = Path("/dev/full")
needs_a_full_disk = pytest.mark.skipif(not FULL_DISK.exists(), reason=f"there is no {FULL_DISK}")


class Pipe:
    """A pipe that nobody reads until `read_all`."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def fill(self) -> int:
        """Write until nothing more fits; returns the number of bytes."""
        os.set_blocking(self.writer, False)
        size = 0
        try:
            while True:
                size += os.write(self.writer, bytes(4096))
        except BlockingIOError:
            os.set_blocking(self.writer, True)
            return size

    def read_all(self) -> bytes:
        """Read what is there now."""
        found = b""
        try:
            while part := os.read(self.reader, 1 << 20):
                found += part
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def make_writer() -> Iterator[Callable[..., LogWriter]]:
    """Makes writers that have ended after the test; its pipe must be read, or be closed after this."""
    made: list[LogWriter] = []

    def make(descriptor: int, **limits: int) -> LogWriter:
        made.append(LogWriter(descriptor, **limits))
        return made[-1]

    yield make
    for writer in made:
        writer.close(10)


@pytest.fixture
def full_disk() -> Iterator[int]:
    descriptor = os.open(FULL_DISK, os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


def read_until(pipe: Pipe, complete: Callable[[bytes], bool]) -> bytes:
    """Read a pipe until its text is complete."""
    found = bytearray()

    def is_complete() -> bool:
        found.extend(pipe.read_all())
        return complete(bytes(found))

    assert eventually(is_complete), bytes(found[-1000:])
    return bytes(found)


def dropped_lines_of(text: bytes) -> int:
    """Return how many dropped lines a log states."""
    entries = [json.loads(line) for line in text.splitlines() if line.startswith(b"{")]
    return sum(entry["lines"] for entry in entries if entry["event"] == "log lines dropped")


def test_lines_are_written_in_their_order(pipe: Pipe, make_writer: Callable[..., LogWriter]) -> None:
    writer = make_writer(pipe.writer)
    for method in (writer.debug, writer.info, writer.warning, writer.error, writer.critical, writer.msg):
        method(f"line of {method.__name__}")
        method("next")

    writer.close(10)

    assert pipe.read_all() == b"line of msg\nnext\n" * 6
    assert writer.dropped == 0


def test_a_pipe_that_nobody_reads_blocks_no_caller_and_its_lines_are_counted(
    pipe: Pipe, make_writer: Callable[..., LogWriter]
) -> None:
    noise = pipe.fill()
    writer = make_writer(pipe.writer, max_lines=10)

    for number in range(100):
        writer.info(f"line {number}")

    assert writer.dropped in (89, 90)  # the thread may hold one line beside the ten that wait
    text = read_until(pipe, lambda found: b"log lines dropped" in found and found.endswith(b"\n"))[noise:]
    assert text.startswith(b"line 0\nline 1\n")
    assert text.count(b"line ") + writer.dropped == 100
    assert dropped_lines_of(text) == writer.dropped


def test_waiting_lines_are_limited_by_their_size_too(
    pipe: Pipe, make_writer: Callable[..., LogWriter]
) -> None:
    noise = pipe.fill()
    writer = make_writer(pipe.writer, max_bytes=1000)

    for _ in range(5):
        writer.info("x" * 399)

    assert writer.dropped == 3
    text = read_until(pipe, lambda found: b"log lines dropped" in found and found.endswith(b"\n"))[noise:]
    assert text.count(b"x") == 2 * 399
    for _ in range(2):  # there is room again
        writer.info("x" * 399)
    assert writer.dropped == 3


@needs_a_full_disk
def test_lines_that_a_full_disk_refuses_are_counted(
    full_disk: int, make_writer: Callable[..., LogWriter]
) -> None:
    writer = make_writer(full_disk)

    for _ in range(3):
        writer.info("lost")

    assert eventually(lambda: writer.dropped == 3)


@needs_a_full_disk
def test_writing_continues_after_a_full_disk_and_logs_the_number_of_lost_lines(
    pipe: Pipe, full_disk: int, make_writer: Callable[..., LogWriter]
) -> None:
    writer = make_writer(full_disk)
    for _ in range(3):
        writer.info("lost")
    assert eventually(lambda: writer.dropped == 3)

    os.dup2(pipe.writer, full_disk)
    writer.info("written")

    first, second = read_until(pipe, lambda found: found.count(b"\n") == 2).splitlines()
    assert first == b"written"
    stated = json.loads(second)
    assert (stated["event"], stated["lines"], stated["level"]) == ("log lines dropped", 3, "warning")
    assert stated["timestamp"]
    writer.info("written")
    writer.close(10)
    assert pipe.read_all() == b"written\n"  # it is stated once


def test_a_line_after_an_incomplete_one_starts_on_a_new_line(
    pipe: Pipe, make_writer: Callable[..., LogWriter]
) -> None:
    os.set_blocking(pipe.writer, False)  # a write takes what fits, the next one fails
    writer = make_writer(pipe.writer)
    writer.info("x" * 1_000_000)
    assert eventually(lambda: writer.dropped == 1)
    torn = pipe.read_all()
    assert torn
    assert set(torn) == set(b"x")

    writer.info("whole")
    writer.close(10)

    assert pipe.read_all().startswith(b"\nwhole\n{")


def test_a_line_larger_than_a_pipe_is_written_whole(
    pipe: Pipe, make_writer: Callable[..., LogWriter]
) -> None:
    writer = make_writer(pipe.writer)

    writer.info("x" * 1_000_000)

    assert read_until(pipe, lambda found: found.endswith(b"\n")) == b"x" * 1_000_000 + b"\n"


def test_closing_does_not_wait_for_a_pipe_that_nobody_reads(
    pipe: Pipe, make_writer: Callable[..., LogWriter]
) -> None:
    pipe.fill()
    writer = make_writer(pipe.writer)
    writer.info("waits")

    writer.close(0.01)

    assert writer._thread.is_alive()
    pipe.read_all()


def test_closing_writes_the_lines_that_wait(pipe: Pipe, make_writer: Callable[..., LogWriter]) -> None:
    writer = make_writer(pipe.writer)
    for number in range(1000):
        writer.info(str(number))

    writer.close(10)

    assert pipe.read_all().splitlines() == [str(number).encode() for number in range(1000)]


def test_text_with_lone_surrogates_is_written(pipe: Pipe, make_writer: Callable[..., LogWriter]) -> None:
    writer = make_writer(pipe.writer)

    writer.error("file \udcff")
    writer.close(10)

    assert pipe.read_all() == b"file \\udcff\n"


class Clock:
    """Time that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def admitted(limit: RateLimit, calls: int, event: str = "call refused") -> list[dict[str, Any]]:
    """Pass events to a limit; returns those that it lets through."""
    passed = []
    for number in range(calls):
        try:
            passed.append(dict(limit(None, "info", {"event": event, "number": number})))
        except structlog.DropEvent:
            continue
    return passed


def test_a_burst_passes_and_nothing_after_it(clock: Clock) -> None:
    limit = RateLimit(clock)

    assert [each["number"] for each in admitted(limit, 500)] == list(range(100))


def test_after_the_burst_ten_a_second_pass(clock: Clock) -> None:
    limit = RateLimit(clock)
    admitted(limit, 500)

    clock.now += 0.5

    assert len(admitted(limit, 500)) == 5


def test_a_pause_allows_at_most_one_burst(clock: Clock) -> None:
    limit = RateLimit(clock)
    admitted(limit, 500)

    clock.now += 3600

    assert len(admitted(limit, 500)) == 100


def test_the_next_line_carries_the_number_of_suppressed_ones(clock: Clock) -> None:
    limit = RateLimit(clock)
    admitted(limit, 500)

    clock.now += 0.2

    assert [each.get("suppressed") for each in admitted(limit, 500)] == [400, None]
    clock.now += 0.1
    assert admitted(limit, 1)[0]["suppressed"] == 498


def test_each_event_name_has_a_separate_limit(clock: Clock) -> None:
    limit = RateLimit(clock)
    admitted(limit, 500)

    assert len(admitted(limit, 500, "stage failed")) == 100


def test_names_beyond_the_most_share_one_limit(clock: Clock) -> None:
    limit = RateLimit(clock)
    for number in range(MAX_NAMES):
        admitted(limit, 1, f"event {number}")

    shared = [admitted(limit, 1, f"event {number}") for number in range(MAX_NAMES, MAX_NAMES + 500)]

    assert sum(len(each) for each in shared) == BURST_LINES
    assert len(limit._buckets) == MAX_NAMES + 1


class YieldingSeconds(float):
    """Seconds that let other threads run while they are subtracted."""

    def __sub__(self, other: float) -> float:
        time.sleep(0)
        return float(self) - other


def test_the_limit_holds_for_all_threads_together() -> None:
    limit = RateLimit(lambda: YieldingSeconds(0))
    passed: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: passed.extend(admitted(limit, 100))) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(passed) == BURST_LINES


def test_a_line_logged_in_the_middle_of_another_one_blocks_neither() -> None:
    nested: list[dict[str, Any]] = []

    def finalize_something_first() -> float:
        if not nested:
            nested.append({})
            nested.extend(admitted(limit, 1, "error ignored"))
        return 0.0

    limit = RateLimit(finalize_something_first)

    assert len(admitted(limit, 1)) == 1
    assert nested[1:]


def raise_nested(depth: int) -> NoReturn:
    """Raise an error below so many frames, with a message of a megabyte."""
    if depth == 0:
        raise ValueError("x" * 1_000_000)
    raise_nested(depth - 1)


def test_an_exception_with_a_long_message_is_rendered_and_written(
    pipe: Pipe, make_writer: Callable[..., LogWriter]
) -> None:
    writer = make_writer(pipe.writer)
    try:
        raise_nested(200)
    except ValueError as error:
        writer.error(render_line(None, "error", {"event": "stage failed", "exc_info": error}))

    entry = json.loads(read_until(pipe, lambda found: found.endswith(b"\n")))

    (exception,) = entry["exception"]
    assert exception["exc_value"] == "x" * 1_000_000
    assert len(exception["frames"]) <= 51
    assert "locals" not in exception["frames"][0]


class Unprintable:
    """Cannot be rendered."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_a_field_that_cannot_be_rendered_is_reported_in_its_line() -> None:
    entry = json.loads(render_line(None, "error", {"event": "call failed", "field": Unprintable()}))

    assert (entry["event"], entry["of"], entry["error"]) == (
        "log line not rendered",
        "call failed",
        "RuntimeError",
    )
    assert entry["level"] == "error"


@pytest.fixture
def logger(pipe: Pipe, make_writer: Callable[..., LogWriter], clock: Clock) -> logging.Logger:
    """A standard logger whose records go to the pipe, and to no handler of pytest's."""
    logger = logging.Logger("test_logs")
    logger.addHandler(StandardHandler(make_writer(pipe.writer), RateLimit(clock)))
    return logger


def lines_of(pipe: Pipe, lines: int = 1) -> list[dict[str, Any]]:
    """Read so many lines of a log."""
    text = read_until(pipe, lambda found: found.count(b"\n") >= lines)
    return [json.loads(line) for line in text.splitlines()]


def test_a_standard_record_is_a_json_line_with_its_exception(pipe: Pipe, logger: logging.Logger) -> None:
    try:
        raise ValueError("the cause")
    except ValueError:
        logger.exception("callback of %s failed", "a task")

    (entry,) = lines_of(pipe)
    assert (entry["event"], entry["level"], entry["logger"]) == (
        "callback of a task failed",
        "error",
        "test_logs",
    )
    assert entry["timestamp"].endswith("Z")
    assert entry["exception"][0]["exc_value"] == "the cause"


def test_a_standard_record_with_wrong_arguments_is_written_without_them(
    pipe: Pipe, logger: logging.Logger
) -> None:
    logger.warning("%d calls", "many")

    (entry,) = lines_of(pipe)
    assert (entry["event"], entry["error"]) == ("%d calls", "TypeError")


def test_standard_records_are_limited_by_their_logger(
    pipe: Pipe, logger: logging.Logger, clock: Clock
) -> None:
    for number in range(500):
        logger.warning("call %d failed", number)
    clock.now += 0.1

    logger.warning("the last call failed")

    *_, last = lines_of(pipe, BURST_LINES + 1)
    assert (last["event"], last["suppressed"]) == ("the last call failed", 400)


PROGRAM = """
import asyncio, gc, sys, threading, warnings
import structlog
from serving.lifecycle.logs import configure_logs

writer = configure_logs()
structlog.get_logger("program").info("event", number=1)
warnings.warn("odd")

def fail():
    raise ValueError("in a thread")

thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()

class Finalized:
    def __del__(self):
        raise ValueError("in a finalizer")

Finalized()

async def forget_a_task():
    async def fail():
        raise ValueError("in a task")
    task = asyncio.create_task(fail())
    await asyncio.wait([task])

asyncio.run(forget_a_task())
gc.collect()
writer.close(10)
"""


def test_every_message_of_python_is_a_json_line_on_stderr() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )

    entries = [json.loads(line) for line in finished.stderr.splitlines()]
    assert all({"event", "level", "timestamp"} <= set(entry) for entry in entries)
    by_event = {entry["event"].splitlines()[0]: entry for entry in entries}
    assert by_event["event"]["number"] == 1
    assert any("UserWarning: odd" in event for event in by_event)
    assert by_event["thread failed"]["thread"] == "worker"
    assert by_event["thread failed"]["exception"][0]["exc_value"] == "in a thread"
    assert "__del__" in by_event["error ignored"]["of"]
    assert by_event["Task exception was never retrieved"]["logger"] == "asyncio"
    assert by_event["Task exception was never retrieved"]["exception"][0]["exc_value"] == "in a task"
    assert len(entries) == 5
