"""Standard streams that no work ends by: closed, full, without a reader, or unable to say a letter."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

WAIT = 60.0  # seconds that a stream that does not block is waited for


class Forgiving:
    """A stream around another: what cannot be written is dropped, and `lost` has the reason.

    Letters that the encoding does not have are written as escapes. Once a write has failed, nothing more is tried.

    Attributes:
        lost: the error of the first write that failed.
    """

    def __init__(self, stream: IO[Any], lost: list[BaseException]) -> None:
        self._stream, self.lost = stream, lost

    def write(self, data: Any) -> int:
        """Write text, or bytes to the `buffer` of a stream; never raises."""
        if not self.lost:
            self._try(lambda: self._stream.write(self._sayable(data)))
        return len(data)

    def writelines(self, lines: Any) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush; never raises."""
        if not self.lost:
            self._try(self._stream.flush)

    def isatty(self) -> bool:
        """Whether it is a terminal; a stream that is closed is none."""
        try:
            return not self.lost and self._stream.isatty()
        except (OSError, ValueError, AttributeError):
            return False

    @property
    def buffer(self) -> Forgiving:
        """The bytes beneath."""
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
        except BlockingIOError:  # shared with a program that set it so; the bytes are kept in the buffer
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
        with suppress(OSError, ValueError):  # what is in the buffer must not fail at the end of Python
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()


@contextmanager
def forgiving_streams() -> Iterator[Forgiving]:
    """Make standard output and error forgiving within; yields standard output."""
    _open_all()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _forgiving(sys.stdout), _forgiving(sys.stderr)  # type: ignore[assignment]
    try:
        yield sys.stdout  # type: ignore[misc]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def tell(text: str, stream: Any = None) -> None:
    """Write to a stream (standard error) and flush, whatever has become of it."""
    stream = stream or sys.stderr
    if stream is not None:
        forgiving = _forgiving(stream)
        forgiving.write(text)
        forgiving.flush()


def is_terminal(stream: Any) -> bool:
    """Whether a person sees it; not one that is closed."""
    return stream is not None and _forgiving(stream).isatty()


def _forgiving(stream: Any) -> Forgiving:
    if isinstance(stream, Forgiving):
        return stream
    return Forgiving(open(os.devnull, "w", encoding="utf-8") if stream is None else stream, [])


def _open_all() -> None:
    """Open descriptors 0 to 2 if the parent closed them: else the next files would get them, and what C++ logs."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
