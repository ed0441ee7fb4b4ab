"""Standard streams whose errors (closed, full, no reader, a missing letter) do not end the work."""

from __future__ import annotations

import os
import select
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NoReturn

WAIT = 60.0  # seconds to wait for a non-blocking stream


class Forgiving:
    """A wrapper of a stream: output that cannot be written is dropped.

    Letters that the encoding does not have are written as escapes. After a failed write, all output is dropped.

    Attributes:
        lost: the error of the first failed write, or empty.
    """

    def __init__(self, stream: IO[Any], lost: list[BaseException]) -> None:
        self._stream, self.lost = stream, lost

    def write(self, data: Any) -> int:
        """Write text, or bytes to the `buffer` of a stream; never raises."""
        if not self.lost:
            self._try(lambda: self._stream.write(self._sayable(data)))
        return len(data)

    def writelines(self, lines: Any) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush; never raises."""
        if not self.lost:
            self._try(self._stream.flush)

    def isatty(self) -> bool:
        """Whether it is an open terminal."""
        try:
            return not self.lost and self._stream.isatty()
        except (OSError, ValueError, AttributeError):
            return False

    @property
    def buffer(self) -> Forgiving:
        """The binary stream below."""
        return Forgiving(self._stream.buffer, self.lost)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _sayable(self, data: Any) -> Any:
        encoding = getattr(self._stream, "encoding", None)
        if not isinstance(data, str) or encoding is None:
            return data
        try:
            data.encode(encoding, getattr(self._stream, "errors", None) or "strict")
        except UnicodeEncodeError:
            return data.encode(encoding, "backslashreplace").decode(encoding)
        return data

    def _try(self, action: Any) -> None:
        try:
            action()
        except BlockingIOError:  # another program made the shared stream non-blocking; the buffer keeps the bytes
            self._wait(WAIT)
        except (OSError, ValueError) as error:  # ValueError: closed
            self._lose(error)

    def _wait(self, seconds: float) -> None:
        try:
            select.select([], [self._stream.fileno()], [], seconds)
            os.set_blocking(self._stream.fileno(), True)
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: BaseException) -> None:
        self.lost.append(error)
        if self._stream not in (sys.__stdout__, sys.__stderr__):
            return
        with suppress(OSError, ValueError):  # so that the buffer does not fail at the end of Python
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()


@contextmanager
def forgiving_streams() -> Iterator[Forgiving]:
    """Wrap standard output and error in `Forgiving` within the block; yields standard output."""
    _open_all()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _forgiving(sys.stdout), _forgiving(sys.stderr)  # type: ignore[assignment]
    try:
        yield sys.stdout  # type: ignore[misc]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def leave_at_once(code: int) -> NoReturn:
    """End the process without waiting for its threads and exit hooks; what was printed is written first."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or its reader is gone
            stream.flush()
    os._exit(code)


def tell(text: str, stream: Any = None) -> None:
    """Write to a stream (None: standard error) and flush; never raises."""
    stream = stream or sys.stderr
    if stream is not None:
        forgiving = _forgiving(stream)
        forgiving.write(text)
        forgiving.flush()


def tell_note(text: str, kind: str = "note") -> None:
    """Print a note, or an error, on standard error, broken at words on a terminal."""
    print(fitted(f"{kind}: {text}", sys.stderr), file=sys.stderr)


def tell_error(text: str) -> None:
    """Print why something is refused, as :func:`tell_note` does."""
    tell_note(text, "error")


def is_terminal(stream: Any) -> bool:
    """Whether a stream is an open terminal."""
    return stream is not None and _forgiving(stream).isatty()


def fitted(text: str, stream: Any) -> str:
    """The lines of a text, those wider than the terminal broken and indented; unchanged if it is no terminal."""
    if not is_terminal(stream):
        return text
    width = shutil.get_terminal_size().columns
    lines = (
        textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        if len(line) > width
        else line
        for line in text.split("\n")
    )
    return "\n".join(lines)


def _forgiving(stream: Any) -> Forgiving:
    if isinstance(stream, Forgiving):
        return stream
    return Forgiving(open(os.devnull, "w", encoding="utf-8") if stream is None else stream, [])


def _open_all() -> None:
    """Open descriptors 0 to 2 if the parent closed them: else the next opened files would get them, and C++'s logs."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
