"""Events and logs that are read while they are written."""

import json
from pathlib import Path

import pytest

from serving.jobs.events import READ_BYTES, EventReader, TextReader


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def line(number: int, **more: object) -> str:
    return json.dumps({"number": number, "time": 1.5, "kind": "line", "text": "x", **more}) + "\n"


def numbers(reader: EventReader) -> list[int]:
    read = []
    while (events := reader.read()) is not None:
        read += [event.number for event in events]
    return read


def append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


def test_a_missing_file_has_no_events(file: Path) -> None:
    assert EventReader(file).read() is None


def test_each_event_is_read_once_while_the_file_grows(file: Path) -> None:
    reader = EventReader(file)
    append(file, line(1) + line(2))
    first = numbers(reader)
    append(file, line(3))

    assert (first, numbers(reader), numbers(reader)) == ([1, 2], [3], [])


def test_a_line_is_read_after_its_newline_is_written(file: Path) -> None:
    reader = EventReader(file)
    append(file, line(1) + line(2)[:9])
    first = numbers(reader)
    append(file, line(2)[9:])

    assert (first, numbers(reader)) == ([1], [2])


def test_an_incomplete_line_that_is_rewritten_is_read_once(file: Path) -> None:
    reader = EventReader(file)
    append(file, line(1) + line(2)[:9])
    first = numbers(reader)
    file.write_text(line(1) + line(2) + line(3))

    assert (first, numbers(reader)) == ([1], [2, 3])


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "{",
        "null",
        "[" * 5000,
        '{"number": 2}',
        '{"number": 0, "time": 1, "kind": "line", "text": "x"}',
        '{"number": 2, "time": 1, "kind": "other"}',
        '{"number": 2, "time": "never", "kind": "line", "text": "x"}',
        "\0\0",
        "x" * (3 * READ_BYTES),
    ],
)
def test_a_line_that_is_no_event_is_skipped(file: Path, nonsense: str) -> None:
    append(file, line(1) + nonsense + "\n" + line(3))

    assert numbers(EventReader(file)) == [1, 3]


def test_bytes_that_are_not_utf8_are_skipped(file: Path) -> None:
    file.write_bytes(line(1).encode() + b"\xff\xfe\n" + line(3).encode())

    assert numbers(EventReader(file)) == [1, 3]


def test_a_file_larger_than_one_read_is_read_completely(file: Path) -> None:
    append(file, "".join(line(number) for number in range(1, 5001)))

    assert numbers(EventReader(file, 17)) == list(range(18, 5001))


@pytest.mark.parametrize("when", [1.5, "1970-01-01T00:00:01.500000+00:00", "1970-01-01T00:00:01.5"])
def test_a_time_is_read_from_seconds_and_from_a_date(file: Path, when: object) -> None:
    append(file, line(1, time=when))

    (event,) = EventReader(file).read() or []

    assert event.time.timestamp() == 1.5


def test_a_log_is_read_with_its_incomplete_line_and_split_characters(file: Path) -> None:
    reader = TextReader(file)
    wire = "one\nzwö".encode()
    file.write_bytes(wire[:-1])
    first = [reader.read(), reader.read(), reader.read()]
    file.write_bytes(wire)

    assert first == [["one\n"], ["zw"], None]
    assert reader.read() == ["ö"]
