"""A page on this machine that shows runs as they train: read only, for those who have its address."""

from __future__ import annotations

import hmac
import json
import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from seqjax.errors import UserError
from seqjax.host.disk import finite
from seqjax.sweeps.watched import Watched

HOME = "127.0.0.1"
LOCAL = (HOME, "localhost", "[::1]")  # names of this machine in a browser, also at the end of an ssh tunnel
POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Server(ThreadingHTTPServer):
    """Serves the page of one folder. Its only requests are GET ``/`` and ``/runs``, both with the token."""

    daemon_threads = True

    def __init__(self, place: Path, port: int) -> None:
        """Listen on 127.0.0.1 at a port; 0: any that is free.

        Raises:
            UserError: the port is taken.
        """
        self.watched, self.turn, self.token = Watched(place), Lock(), secrets.token_urlsafe(16)
        try:
            super().__init__((HOME, port), _Handler)
        except OSError as error:
            raise UserError(f"command line: --port {port}: {error.strerror}; 0 takes any that is free") from None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """No line for a browser that has closed its connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """The address of the page, with its token."""
        return f"http://{HOME}:{self.server_address[1]}/?token={self.token}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "seqjax", ""

    def do_GET(self) -> None:
        """The page, or the runs that have changed since a version, as JSON."""
        asked = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(asked.query).items()}
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        token = query.get("token", "").encode()
        if host not in LOCAL or not hmac.compare_digest(token, self.server.token.encode()):
            self._send(403, "text/plain", b"the address is not complete: take the whole one that was printed\n")
        elif asked.path == "/":
            nonce = secrets.token_urlsafe(16)
            page = files("seqjax.sweeps").joinpath("watch.html").read_text().replace("NONCE", nonce)
            self._send(200, "text/html; charset=utf-8", page.encode(), POLICY.format(nonce=nonce))
        elif asked.path == "/runs":
            since = query.get("since", "0")
            with self.server.turn:
                found = self.server.watched.since(int(since) if since.isdecimal() else 0)
            self._send(200, "application/json", json.dumps(finite(found), allow_nan=False).encode())
        else:
            self._send(404, "text/plain", b"there is no such page\n")

    def _send(self, status: int, kind: str, body: bytes, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """No line for each request."""
