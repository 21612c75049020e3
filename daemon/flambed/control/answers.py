"""Writing answers: documents, streams and errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, Protocol

from aiohttp import http_exceptions, web
from aiohttp.typedefs import Middleware

from flambed.control.requests import MOST_BYTES, READ_SECONDS, UnreadableError, peer_uid
from flambed.errors import (
    ClusterConfigurationError,
    ClusterError,
    ConflictError,
    FlambedError,
    NotAllowedError,
    NotKnownError,
    OverLimitError,
    StepError,
)

WRITE_SECONDS: Final = 60.0  # for a client to take one line of a stream

ANSWERS: Final[tuple[tuple[type[FlambedError], int, str], ...]] = (
    (ClusterConfigurationError, 400, "bad_document"),
    (NotAllowedError, 403, "not_allowed"),
    (NotKnownError, 404, "not_known"),
    (ConflictError, 409, "conflict"),
    (ClusterError, 409, "conflict"),
    (UnreadableError, 422, "unreadable"),
    (StepError, 503, "outside"),
    (FlambedError, 503, "unavailable"),
)
"""Errors to statuses and codes; the first line that fits counts. Anything else that is raised is a bug, and a 500."""

_STREAMING: Final = web.RequestKey("streaming", bool)
_MESSAGES: Final = {
    404: "there is no such path: GET /v1/openapi.json describes all of them",
    405: "the path does not take this method: GET /v1/openapi.json describes those it takes",
    408: f"the body did not come within {READ_SECONDS:.0f} seconds",
    413: f"the body is larger than {MOST_BYTES:,} bytes",
}


class Emit(Protocol):
    """How an event is logged."""

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Log one event out of the catalogue."""


def document(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a document as an answer."""
    return web.Response(body=_line(value), status=status, headers=headers, content_type="application/json")


def error_document(error: FlambedError) -> tuple[int, dict[str, Any]]:
    """Return the status and the document that tell of an error."""
    status, code = next((status, code) for kind, status, code in ANSWERS if isinstance(error, kind))
    if not isinstance(error, ClusterConfigurationError | OverLimitError):
        return status, _error(code, str(error))
    detail = [
        {"message": problem.message, "line": problem.line, "column": problem.column, "field": problem.field}
        for problem in error.problems
    ]
    if isinstance(error, OverLimitError):
        return status, _error(code, str(error), detail)
    count = len(detail)
    message = f"{error.source}: {detail[0]['message'] if count == 1 else f'{count} mistakes'}; nothing was changed"
    return status, _error(code, message, detail)


def error_answers(emit: Emit) -> Middleware:
    """Return the middleware that turns what a handler raises into an answer, and logs it."""

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except FlambedError as error:
            status, told = error_document(error)
            headers = None
        except web.HTTPException as error:
            status, headers = error.status, {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            told = _error(HTTPStatus(status).name.lower(), _MESSAGES.get(status, error.reason))
        except ConnectionError:  # the client is gone: nobody is left to answer
            raise
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            emit("control.request_failed", method=request.method, path=request.path, error=repr(error), traceback=trace)
            if request.get(_STREAMING):
                raise
            told = _error(
                "bug", "the service made a mistake with this request; its log has the event control.request_failed"
            )
            raise web.HTTPInternalServerError(text=_line(told).decode(), content_type="application/json") from error
        emit(
            "control.request_refused",
            uid=peer_uid(request),
            method=request.method,
            path=request.path,
            status=status,
            code=told["error"]["code"],
            message=_for_the_log(told),
        )
        return document(told, status=status, headers=headers)

    return middleware


def _for_the_log(told: Mapping[str, Any]) -> str:
    """Return what the log says of a refusal: not what a document or a query contains, which may be a secret."""
    error = told["error"]
    if error["code"] not in ("bad_document", "unreadable"):
        return str(error["message"])
    places = [f"{one['line']}:{one['column']}" for one in error["detail"] if one["line"] is not None]
    return f"{max(len(error['detail']), 1)} mistakes" + (f", at {', '.join(places)}" if places else "")


async def stream(
    request: web.Request, items: AsyncIterator[Any], *, heartbeat: float, closing: asyncio.Event
) -> web.StreamResponse:
    """Send items as NDJSON, one a line, until they end, the client goes away or the service stops.

    A blank line is sent after each `heartbeat` seconds in which nothing came. What goes wrong after the answer has
    begun is told in a last line, an error document.
    """
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    request[_STREAMING] = True
    async with contextlib.aclosing(_beating(items, heartbeat, closing)) as lines:
        await response.prepare(request)
        async for line in lines:
            if not await _taken(request, response, line):
                break
    return response


async def _taken(request: web.Request, response: web.StreamResponse, line: bytes) -> bool:
    """Send a line; return whether the client still takes any."""
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.write(line)
    except ConnectionError:
        return False
    except TimeoutError:  # it is there and reads nothing: it would keep the stream in memory for ever
        if request.transport is not None:
            request.transport.abort()
        return False
    return True


def http_logger() -> logging.Logger:
    """Return the logger of the HTTP library, which tells of malformed requests without quoting them: one may hold a key."""
    logger = logging.getLogger("aiohttp.server")
    if not any(isinstance(present, _WithoutQuotes) for present in logger.filters):
        logger.addFilter(_WithoutQuotes())
    return logger


class _WithoutQuotes(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], http_exceptions.HttpProcessingError):
            record.msg, record.args = f"refused a malformed request: {type(record.exc_info[1]).__name__}", ()
            record.exc_info = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


async def _beating(items: AsyncIterator[Any], heartbeat: float, closing: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """Yield each item as a line, and a blank line after each `heartbeat` seconds without one."""
    stop = asyncio.create_task(closing.wait())
    coming: asyncio.Task[Any] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(_next(items))
            await asyncio.wait({coming, stop}, timeout=heartbeat, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                if stop.done():
                    return
                yield b"\n"
                continue
            try:
                item = coming.result()
            except StopAsyncIteration:
                return
            except FlambedError as error:
                yield _line(error_document(error)[1])
                return
            finally:
                coming = None
            yield _line(item)
    finally:
        pending = [task for task in (stop, coming) if task is not None]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items)


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _error(code: str, message: str, detail: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "detail": detail or []}}
