"""Bytes to text: byte order marks and lines."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from seqjax.errors import UserError
from seqjax.host.pointers import refuse_pointer

BLOCK_BYTES = 1 << 22
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
LINE_END = re.compile(rb"\r\n|\r|\n")
_LONE_RETURN = re.compile(rb"\r[^\n]")


def mark_length(head: bytes, where: str) -> int:
    """Length of the UTF-8 byte order mark: 3 or 0 bytes. ``head``: the first `HEAD_BYTES` of the text, or all of it.

    Raises:
        UserError: the mark of UTF-16 or UTF-32; a pointer of Git LFS.
    """
    refuse_pointer(head, where)
    for mark, encoding in _OTHER_MARKS:
        if head.startswith(mark):
            raise UserError(f"{where} is {encoding} (it begins with its byte order mark): {_convert(encoding)}")
    return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def lines_of(data: bytes, where: str) -> list[str]:
    r"""The lines of a UTF-8 file without their ends, which may be \n, \r\n or \r, and without a byte order mark.

    The last line may lack its end. Nothing else ends a line: no form feed, no U+2028.

    Raises:
        UserError: UTF-16 or UTF-32; a pointer of Git LFS; a byte that is NUL or not UTF-8 (with its line).
    """
    lines = LINE_END.split(data[mark_length(data, where) :])
    if not lines[-1]:
        lines.pop()
    return [_decoded(line, f"{where}:{number}") for number, line in enumerate(lines, 1)]


def has_lone_returns(path: Path) -> bool:
    r"""Whether a \r without \n ends a line of a plain file."""
    with path.open("rb") as file:
        before = b""
        while block := file.read(BLOCK_BYTES):
            joined = before + block
            if _LONE_RETURN.search(joined):
                return True
            before = joined[-1:] if joined.endswith(b"\r") else b""
    return before == b"\r"


def _decoded(line: bytes, where: str) -> str:
    if (at := line.find(b"\0")) >= 0:
        raise UserError(f"{where}: a NUL byte at column {at + 1}: not text; if it is UTF-16, {_convert('UTF-16')}")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}") from None


def _convert(encoding: str) -> str:
    return f"convert it: iconv -f {encoding} -t UTF-8"
