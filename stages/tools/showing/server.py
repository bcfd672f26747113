"""Who may ask for what of a run's page: an HTTP server of this machine alone.

It listens on 127.0.0.1. Each request must bear the random token in its address and name this server as its host, so
that neither other users of the machine, nor pages of other sites in the same browser, nor a name that is made to lead
here get anything. What can be asked for is a table; no part of an address becomes a path.
"""

import hmac
import json
import secrets
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ....core.errors import DataError

HOST = "127.0.0.1"
_LARGEST_FORM = 8192  # bytes
_SECONDS = 30  # a connection may be silent
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PAGE = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; connect-src 'self'; frame-src 'self'"
REPORT = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox allow-same-origin"
_FRAMED = "; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"


class RequestError(Exception):
    """A request that is not answered: status and a line that says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Server(ThreadingHTTPServer):
    """The server of one page.

    content: returns the type and content of an address below the token, or raises RequestError. act: does what a
    form's fields say, and returns JSON.
    """

    daemon_threads = True

    def __init__(
        self,
        port: int,
        content: Callable[[str], tuple[str, bytes]],
        act: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        super().__init__((HOST, port), _Handler)
        self.token, self.content, self.act = secrets.token_urlsafe(24), content, act

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names that a browser on this machine calls the server by."""
        return tuple(f"{name}:{self.server_address[1]}" for name in (HOST, "localhost"))

    @property
    def address(self) -> str:
        return f"http://{self.hosts[0]}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = _SECONDS
    server_version, sys_version = "ldm", ""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal shows the address alone."""

    def _get(self) -> None:
        kind, content = self.server.content(self._checked())
        policy = REPORT if kind == "report" else _PAGE
        if kind == "page":
            nonce = secrets.token_urlsafe(12)
            content = content.replace(b"NONCE", nonce.encode())
            policy += f"; script-src 'nonce-{nonce}'"
        self._send(200, "text/html; charset=utf-8" if kind in ("page", "report") else kind, content, policy + _FRAMED)

    def _post(self) -> None:
        if self._checked() != "draw":
            raise RequestError(404, "not found")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST_FORM:
            raise RequestError(413, "too much")
        try:
            fields = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise RequestError(400, "not JSON") from None
        if not isinstance(fields, dict):
            raise RequestError(400, "not an object")
        self._send(200, "application/json", json.dumps(self.server.act(fields)).encode())

    def _checked(self) -> str:
        """Return the address behind the token. Raises RequestError for another host, origin or token."""
        if self.headers.get("Host") not in self.server.hosts:
            raise RequestError(403, "another host")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in [f"http://{host}" for host in self.server.hosts]:
            raise RequestError(403, "another origin")
        _, token, *rest = [*self.path.split("/", 2), ""]
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise RequestError(404, "not found")
        return rest[0]

    def _answer(self, method: Callable[[], None]) -> None:
        try:
            method()
        except RequestError as refusal:
            self._send(refusal.status, "text/plain; charset=utf-8", f"{refusal}\n".encode())
        except (BrokenPipeError, ConnectionError, TimeoutError):
            self.close_connection = True  # The browser is gone.
        except DataError as error:
            self._send(500, "text/plain; charset=utf-8", f"{error.message}\n".encode(errors="replace"))

    def _send(self, status: int, kind: str, content: bytes, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        headers = {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in {**headers, "Content-Security-Policy": policy}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
