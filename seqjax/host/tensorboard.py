"""Event files of TensorBoard: records of a TFRecord file, each a protobuf message `Event` with the numbers of one step.

A record is the length of the message (8 bytes), its checksum (4), the message, and its checksum (4), little-endian. The
checksum is CRC-32C, rotated and shifted. The formats are in TensorFlow's `record_writer.h`, `event.proto` and
`summary.proto`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from functools import cache

NAME = "events.out.tfevents.0.seqjax"
"""A name by which TensorBoard knows an event file."""
VERSION = b"brain.Event:2"
LARGEST = 3.4028234e38  # of float32


def event_file(began: float, steps: Iterable[tuple[int, float, Mapping[str, float]]]) -> bytes:
    """The bytes of an event file. More steps only add bytes at its end, so that TensorBoard can go on reading.

    Args:
        began: wall time of the start, seconds since 1970.
        steps: step, its wall time, and its numbers by name.
    """
    first = _double(1, began) + _bytes(3, VERSION)
    events = [_double(1, time) + _count(2, step) + _bytes(5, _summary(numbers)) for step, time, numbers in steps]
    return b"".join(map(_record, [first, *events]))


def checksum(data: bytes) -> int:
    """CRC-32C (Castagnoli)."""
    found, table = 0xFFFFFFFF, _table()
    for byte in data:
        found = table[(found ^ byte) & 0xFF] ^ (found >> 8)
    return found ^ 0xFFFFFFFF


@cache
def _table() -> list[int]:
    entries = list(range(256))
    for _ in range(8):
        entries = [(entry >> 1) ^ (0x82F63B78 if entry & 1 else 0) for entry in entries]
    return entries


def _record(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return length + _masked(length) + message + _masked(message)


def _masked(data: bytes) -> bytes:
    found = checksum(data)
    return struct.pack("<I", ((found >> 15 | found << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _summary(numbers: Mapping[str, float]) -> bytes:
    return b"".join(_bytes(1, _bytes(1, name.encode()) + _float(2, value)) for name, value in numbers.items())


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first; the eighth bit says that more follow."""
    found = []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _count(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _double(field: int, number: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", number)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _float(field: int, number: float) -> bytes:
    within = number if abs(number) <= LARGEST or number != number else math.copysign(math.inf, number)
    return _varint(field << 3 | 5) + struct.pack("<f", within)
