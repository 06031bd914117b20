"""Reads and writes single protobuf fields, where parsing or building a whole message is too slow.

A message is a sequence of fields. Each field starts with a tag that holds its number and wire type
(Protobuf, "Encoding"). Reading stops with an error after MAX_FIELDS fields, so its time is bounded.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError

from serving.errors import InvalidRequest

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
MAX_VARINT_BYTES = 10
MAX_FIELDS = 1024
"""Maximum number of fields in a message, nested and unknown ones too. A packed tensor counts as one field."""


class Field(NamedTuple):
    """The position of a field in a message."""

    number: int
    wire_type: int
    start: int
    """The first byte of its tag."""
    value: int
    """The first byte of its value, after the length if there is one."""
    end: int


class Fields:
    """Reads the fields of a message and of nested messages, up to MAX_FIELDS in total."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._left = MAX_FIELDS

    def between(self, start: int, end: int) -> Iterator[Field]:
        """Yield the fields; raise DecodeError for malformed bytes, InvalidRequest for too many fields."""
        payload = self.payload
        while start < end:
            if self._left == 0:
                raise too_many("fields", MAX_FIELDS)
            self._left -= 1
            tag, value = payload[start], start + 1
            if tag > 0x7F:
                tag, value = self._varint(start, end)
            wire_type = tag & 7
            if wire_type == LENGTH_DELIMITED:
                length, value = self._varint(value, end)
                stop = value + length
            elif wire_type == VARINT and value < end and payload[value] < 0x80:
                stop = value + 1
            elif wire_type == VARINT:
                _, stop = self._varint(value, end)
            elif wire_type in FIXED_BYTES:
                stop = value + FIXED_BYTES[wire_type]
            else:  # groups, which the contract does not use
                raise DecodeError("unknown wire type")
            if stop > end:
                raise DecodeError("truncated")
            yield Field(tag >> 3, wire_type, start, value, stop)
            start = stop

    def count(self, message: Field) -> None:
        """Count the fields of a nested message."""
        for _ in self.between(message.value, message.end):
            pass

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Return a number and the position after it."""
        number = shift = 0
        for position in range(at, min(at + MAX_VARINT_BYTES, end)):
            byte = self.payload[position]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number, position + 1
            shift += 7
        raise DecodeError("truncated")


@lru_cache(maxsize=1024)
def varint(number: int) -> bytes:
    """Encode a number as a protobuf varint: seven bits per byte, lowest bits first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def too_many(name: str, limit: int) -> InvalidRequest:
    """Return the error for more parts than allowed."""
    return InvalidRequest(f"{name}: expected at most {limit}, got at least {limit + 1}")
