"""HTTP over the service's Unix socket, out of the standard library."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from flambed.cli.failure import Exit, FailureError

ANSWER_SECONDS: Final = 60.0
QUIET_SECONDS: Final = 60.0  # a stream sends a sign of life every 15 s

_CODES: Final = {
    "bad_document": Exit.USAGE,
    "not_allowed": Exit.NOT_PERMITTED,
    "not_known": Exit.NOT_KNOWN,
    "conflict": Exit.FAILED,
    "unreadable": Exit.USAGE,
    "request_entity_too_large": Exit.USAGE,
    "unavailable": Exit.UNREACHABLE,
}
"""The service's codes to exit codes; any other is 1."""

Query = Sequence[tuple[str, str]]
Mistake = Callable[[Mapping[str, Any]], str]


def find_socket(option: str | None, environ: Mapping[str, str]) -> Path:
    """Return the service's socket: the option's, else $FLAMBED_SOCKET's, else the first usual place that exists.

    Raises:
        FailureError: there is none.
    """
    if named := option or environ.get("FLAMBED_SOCKET"):
        return Path(named)
    usual = [Path("/run/flambed/control.sock")]
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        usual.append(Path(runtime) / "flambed" / "control.sock")
    for path in usual:
        if path.exists():
            return path
    raise FailureError(
        Exit.UNREACHABLE,
        f"no service is running here: there is no {' and no '.join(map(str, usual))}",
        ["Start it (systemctl start flambed, or `flambed run`), or name its socket with --socket or $FLAMBED_SOCKET."],
    )


def cluster_path(ref: str, *parts: str) -> str:
    """Return the path of a cluster, or of something of it."""
    return "/".join(("/v1/clusters", quote(ref, safe=""), *parts))


class Client:
    """Asks one service; every request has a connection of its own."""

    def __init__(self, path: Path, *, answer: float = ANSWER_SECONDS, quiet: float = QUIET_SECONDS) -> None:
        """Ask the service at a socket, and give up on an answer or on a quiet stream after so many seconds."""
        self._path = path
        self._answer = answer
        self._quiet = quiet

    def get(self, path: str, query: Query = ()) -> Any:
        """Return the document at a path."""
        return self.request("GET", path, query)

    def request(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        mistake: Mistake | None = None,
    ) -> Any:
        """Send a request and return the document that comes back.

        Args:
            method: of HTTP.
            path: percent-encoded.
            query: parameters, in order.
            body: what is sent.
            headers: what is sent with it.
            mistake: returns the line that tells of a mistake in what was sent.

        Raises:
            FailureError: the service cannot be reached, does not answer in time, or refuses.
        """
        response = self._send(method, path, query, body=body, headers=headers, timeout=self._answer)
        try:
            raw = response.read()
        except TimeoutError as error:
            raise self._silent() from error
        except (OSError, http.client.HTTPException) as error:
            raise self._lost() from error
        finally:
            response.close()
        return self._document(raw, response.status, mistake)

    def stream(self, path: str, query: Query = (), *, body: bytes | None = None) -> Iterator[Any]:
        """Yield the documents of a stream as they come, and None at its signs of life. With a body it is a POST of JSON.

        Raises:
            FailureError: the service cannot be reached, refuses, falls silent, or goes away in the middle of a document.
        """
        headers = {"Content-Type": "application/json"} if body is not None else {}
        method = "GET" if body is None else "POST"
        response = self._send(method, path, query, body=body, headers=headers, timeout=self._quiet)
        try:
            if response.status != http.client.OK:
                self._document(response.read(), response.status, None)
            while line := response.readline():
                if not line.endswith(b"\n"):
                    raise self._lost()
                document = json.loads(line) if line.strip() else None
                if isinstance(document, dict) and "error" in document:
                    raise _refused(document["error"], None)
                yield document
        except TimeoutError as error:
            raise self._silent() from error
        except (OSError, http.client.HTTPException) as error:
            raise self._lost() from error
        finally:
            response.close()

    def _send(
        self,
        method: str,
        path: str,
        query: Query,
        *,
        timeout: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        connection = _UnixConnection(self._path, timeout)
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            connection.request(method, target, body, {"Connection": "close", **(headers or {})})
            return connection.getresponse()
        except TimeoutError as error:
            connection.close()
            raise self._silent() from error
        except OSError as error:
            connection.close()
            raise self._unreachable(error) from error
        except http.client.HTTPException as error:
            connection.close()
            raise self._lost() from error

    def _document(self, raw: bytes, status: int, mistake: Mistake | None) -> Any:
        try:
            document = json.loads(raw)
        except ValueError as error:
            raise FailureError(
                Exit.FAILED, f"{self._path} answered {status} and no JSON: is it the socket of flambed?"
            ) from error
        if isinstance(document, dict) and "error" in document:
            raise _refused(document["error"], mistake)
        return document

    def _unreachable(self, error: OSError) -> FailureError:
        advice = {
            FileNotFoundError: "start the service (systemctl start flambed, or `flambed run`), or name its socket with --socket",
            ConnectionRefusedError: "nobody listens there any more: start the service (systemctl start flambed)",
            PermissionError: "you may not open it: ask who runs the service",
        }.get(type(error), "see the service's log (journalctl -u flambed)")
        what = error.strerror or str(error) or type(error).__name__
        return FailureError(Exit.UNREACHABLE, f"the service cannot be reached at {self._path}: {what}; {advice}")

    def _silent(self) -> FailureError:
        return FailureError(
            Exit.UNREACHABLE,
            f"the service at {self._path} took the connection but does not answer: see its log (journalctl -u flambed); "
            "what it has accepted goes on",
        )

    def _lost(self) -> FailureError:
        return FailureError(
            Exit.UNREACHABLE,
            f"the connection to the service at {self._path} was lost; clusters go on, and what was accepted is done",
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _refused(error: Mapping[str, Any], mistake: Mistake | None) -> FailureError:
    code = _CODES.get(error["code"], Exit.FAILED)
    # Where the file is known, the lines of its mistakes say everything.
    if mistake is not None and error["detail"]:
        return FailureError(code, "", [mistake(one) for one in error["detail"]])
    details = [f"  {one['message']}" for one in error["detail"]]
    return FailureError(code, error["message"], details if len(details) > 1 else ())
