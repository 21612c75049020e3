"""A small HTTP/1.1 server for WSGI applications, with connections that stay open between requests.

werkzeug's server closes the connection after every answer. AWS does not, and clients that reuse connections
(every SDK) would be measured against something else.
"""

from __future__ import annotations

import io
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_to_bytes

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


_connection: ContextVar[socket.socket | None] = ContextVar("connection", default=None)


def client_left() -> bool:
    """Whether the client of the request under way has closed its connection."""
    connection = _connection.get()
    if connection is None:
        return False
    poll = select.poll()  # select() knows no file descriptors above 1023
    poll.register(connection, select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except ConnectionError:
        return True


class ConnectionLostError(Exception):
    """Raised by an application that wants the client's connection reset instead of answered."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one segment for head and body
    server: Server

    def setup(self) -> None:
        super().setup()
        _connection.set(self.connection)  # each connection has a thread and so a context of its own

    def _serve(self) -> None:
        body = self._body()
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> None:
            started.append((status, headers))

        try:
            answer = b"".join(self.server.application(self._environ(body), start_response))
        except ConnectionLostError:
            self._reset()
            return
        status, headers = started[-1]
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in headers:
            if name.lower() not in {"content-length", "connection", "date", "server", "transfer-encoding"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = _serve  # noqa: N815  # http.server's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _environ(self, body: bytes) -> Environ:
        path, _, query = self.path.partition("?")
        host, port = self.server.server_address[:2]
        environ: Environ = {
            "REQUEST_METHOD": self.command,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": self.path,
            "REQUEST_URI": self.path,
            "SERVER_NAME": str(host),
            "SERVER_PORT": str(port),
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in self.headers.items():
            key = "HTTP_" + name.upper().replace("-", "_")
            if key not in {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"}:
                environ[key] = f"{environ[key]},{value}" if key in environ else value
        return environ

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date of an answer, by the clock that AWS has here."""
        return super().date_time_string((time.time() if timestamp is None else timestamp) + self.server.ahead())

    def _reset(self) -> None:
        # Lingering for 0 seconds makes close() send RST: the client sees "connection reset by peer".
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.wfile = io.BytesIO()
        self.connection.close()

    def log_message(self, *_: Any) -> None:
        """Say nothing: the ledger records the calls."""


class Server(ThreadingHTTPServer):
    """Serves `application` on 127.0.0.1, a thread per connection.

    Connections do not outlive the process: their threads are daemons and nothing waits for them.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, port: int, application: Application, ahead: Callable[[], float] = lambda: 0.0) -> None:
        self.application = application
        self.ahead = ahead  # seconds by which AWS's clock is ahead of this machine's
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # http.server's own asks the resolver for this address's name, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left in the middle of a call is no news; anything else is a bug worth a traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.server_address[1]}"
