"""The processes that train one run together: TCP connections of each one with process 0.

They agree by telling each other values, which needs no device. If one of them ends early, all end within a second, with
one line and an exit code. One that does not answer for `SILENCE` seconds counts as ended. Messages are lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seqjax.errors import UserError
from seqjax.host.streams import leave_at_once, tell

LOST = 76  # exit code of a process of which another one has ended early
WAIT = 300.0  # seconds to wait at the start for the other processes
SILENCE, PING = 60.0, 10.0  # seconds
PATIENCE = 5.0  # seconds in which the loss of another process explains an error of this one
LINE = 2**26  # bytes of the longest message


@dataclass
class _Link:
    """A connection, what the other side has said, and whether it has said goodbye."""

    connection: socket.socket
    host: str
    said: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    left: bool = False
    writing: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: Mapping[str, Any]) -> None:
        with self.writing:
            self.connection.sendall(json.dumps(message).encode() + b"\n")


class Peers:
    """The processes of a run, seen by one of them; a run in one process has no links.

    Attributes:
        count: number of processes.
        index: number of this process, from 0.
        last: called, the latest first, before this process ends because of another one: what it still finishes.
    """

    def __init__(self, count: int, index: int, links: Mapping[int, _Link]) -> None:
        self.count, self.index = count, index
        self.last: list[Callable[[], None]] = []
        self._links = dict(links)
        self._ending = threading.Lock()
        self._readers = [threading.Thread(target=self._read, args=(other,), daemon=True) for other in links]
        for thread in self._readers:
            thread.start()
        if links:
            threading.Thread(target=self._ping, daemon=True).start()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in their order. All processes must call it; values are what JSON can hold."""
        if self.count == 1:
            return [value]
        if self.index:
            self._send(0, {"value": value})
            return self._links[0].said.get()
        values = [value, *(self._links[other].said.get() for other in range(1, self.count))]
        for other in self._links:
            self._send(other, {"value": values})
        return values

    def first(self, value: Any) -> Any:
        """The value of process 0. All processes must call it; the values of the others are not used."""
        return self.gather(value if self.index == 0 else None)[0] if self.count > 1 else value

    def leave(self, close: Callable[[], None]) -> None:
        """End together: wait until all processes are here, then ``close()``, in process 0 last."""
        self.gather(None)
        if self.index:
            close()
        for other in self._links:
            self._send(other, {"left": True})
        for thread in self._readers:
            thread.join()
        if not self.index:
            close()
        for link in self._links.values():
            link.connection.close()

    def fail(self, reason: str, code: int, own: bool, close: Callable[[], None]) -> None:
        """Tell the others that this process ends: they end with this exit code, and process 0 prints the reason.

        Args:
            own: False: the error may be due to the loss of another process, which ends this one within `PATIENCE`.
            close: called before process 0 hears of it; in process 0 after the others have.
        """
        if self.index or not own:
            time.sleep(1.0 if own else PATIENCE)  # process 0 tells an error that all have
        if self.index:
            close()
        with self._ending:
            for other, link in self._links.items():
                self._send(other, {"end": f"{self._name(self.index)}: {reason}", "code": code})
                link.left = True
        if not self.index:
            close()

    def _send(self, other: int, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a lost process is noticed by the reader
            self._links[other].send(message)

    def _ping(self) -> None:
        while True:
            time.sleep(PING)
            for other in self._links:
                self._send(other, {})

    def _read(self, other: int) -> None:
        link = self._links[other]
        how = "has ended"
        try:
            with link.connection.makefile("rb") as lines:
                while line := lines.readline(LINE):
                    message = json.loads(line)
                    if "value" in message:
                        link.said.put(message["value"])
                    if "end" in message:
                        self._end(other, message["end"], message["code"], tell_it=self.index == 0)
                    if "left" in message:
                        link.left = True
                        return
        except TimeoutError:
            how = f"has not answered for {SILENCE:.0f} s"
        except (OSError, ValueError):
            pass
        if not link.left:
            self._end(
                other,
                f"{self._name(other)} {how}; the last checkpoint is kept: start all processes again with the same "
                "command",
                LOST,
                tell_it=self.index <= 1,
            )

    def _end(self, other: int, text: str, code: int, tell_it: bool) -> None:
        """End this process at once, after process 0 has told the others why."""
        with self._ending:
            if self._links[other].left:
                return
            for each in self._links if self.index == 0 else ():
                if each != other:
                    self._send(each, {"end": text, "code": code})
            if tell_it:
                tell(f"error: {text}\n")
            for finish in reversed(self.last):
                with contextlib.suppress(Exception):
                    finish()
            leave_at_once(code)

    def _name(self, index: int) -> str:
        host = socket.gethostname() if index == self.index else self._links[index].host
        return f"process {index} of {self.count} ({host})"


ALONE = Peers(1, 0, {})


def meet(address: tuple[str, int], count: int, index: int, version: str) -> Peers:
    """Connect the processes of a run.

    Args:
        address: host and port of process 0.
        version: of the software, the same in all processes.
    Raises:
        UserError: the port is taken, a process does not come within `WAIT` seconds, two have one number, or versions
            or counts differ.
    """
    hello = {"process": index, "count": count, "version": version, "host": socket.gethostname()}
    links = {0: _call(address, hello)} if index else _answer(address, count, hello)
    for link in links.values():
        link.connection.settimeout(SILENCE)
    return Peers(count, index, links)


def _answer(address: tuple[str, int], count: int, hello: Mapping[str, Any]) -> dict[int, _Link]:
    """The links of process 0."""
    deadline = time.monotonic() + WAIT
    links: dict[int, _Link] = {}
    with _server(address) as server:
        while len(links) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(1, count) if i not in links)
                text = f"waited {WAIT:.0f} s at {_shown(address)} for process {missing} of {count}"
                raise _refused(links.values(), text) from None
            try:
                connection.settimeout(10.0)
                theirs = json.loads(_line(connection))
                other, link = int(theirs["process"]), _Link(connection, str(theirs["host"]))
            except (OSError, ValueError, KeyError, TypeError):  # not one of ours
                connection.close()
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if other in links or not 0 < other < count:
                text = f"a second process came as number {other} of {count}"
                raise _refused([link, *links.values()], text)
            links[other] = link
            for key, what in (("count", "--processes"), ("version", "the version")):
                if theirs.get(key) != hello[key]:
                    text = f"{what} is {theirs.get(key)} in process {other} ({link.host}) and {hello[key]} in process 0"
                    raise _refused(links.values(), text)
    for link in links.values():
        link.send(hello)
    return links


def _refused(links: Iterable[_Link], text: str) -> UserError:
    """The error for all processes that have come."""
    for link in links:
        with contextlib.suppress(OSError):
            link.send({"refused": text})
    return UserError(text)


def _call(address: tuple[str, int], hello: Mapping[str, Any]) -> _Link:
    """The link with process 0."""
    deadline = time.monotonic() + WAIT
    while True:
        try:
            connection = socket.create_connection(address, timeout=10.0)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                reason = error.strerror or str(error)
                raise UserError(f"waited {WAIT:.0f} s for process 0 at {_shown(address)} ({reason})") from None
            time.sleep(0.2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link = _Link(connection, address[0])
    try:
        link.send(hello)
        connection.settimeout(WAIT)
        answer = json.loads(_line(connection))
    except (OSError, ValueError):
        raise UserError(f"process 0 at {_shown(address)} has ended, or is no process of seqjax") from None
    if "refused" in answer:
        raise UserError(answer["refused"])
    link.host = answer["host"]
    return link


def _server(address: tuple[str, int]) -> socket.socket:
    """Listens at the port on all interfaces; for a local host only there."""
    host, port = address
    local = host in ("localhost", "127.0.0.1")
    both = not local and socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("127.0.0.1" if local else "", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(f"{_shown(address)}: {error.strerror}; choose another --coordinator") from None


def _line(connection: socket.socket) -> bytes:
    """One line, and not a byte more."""
    found = b""
    while not found.endswith(b"\n") and len(found) < 4096:
        if not (byte := connection.recv(1)):
            raise ConnectionError
        found += byte
    return found


def _shown(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"
