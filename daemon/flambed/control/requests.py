"""Reading requests: what cannot be understood is refused by name before anybody acts on it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from aiohttp import web

from flambed import durations, yamlfile
from flambed.access import Caller
from flambed.control import unixsocket
from flambed.errors import FlambedError

KEY_HEADER: Final = "Flambed-Key"
MOST_BYTES: Final = yamlfile.MOST_BYTES  # of a body
MOST_KEY_BYTES: Final = 16_384  # of a private key; RSA with 16,384 bits takes 13 KB
READ_SECONDS: Final = 30.0  # for a client to send its body
LONGEST_TEXT: Final = 500  # characters of a text that a person gives

_JSON: Final = "application/json"
_DOCUMENTS: Final = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", _JSON)
_FLAGS: Final = {"1": True, "true": True, "0": False, "false": False}


class UnreadableError(FlambedError):
    """The request itself cannot be understood, whatever it is about."""


class Query:
    """The parameters of a request's address; one that nobody reads is a mistake of the client's."""

    def __init__(self, request: web.Request, *known: str) -> None:
        unknown = sorted(set(request.query) - set(known))
        if unknown:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UnreadableError(f"{request.method} {request.path} has no parameter {unknown[0]!r}: {takes}")
        self._query = request.query

    def flag(self, name: str) -> bool:
        """Return whether a parameter is 1 (or true); without it: no."""
        text = self.text(name)
        if text is None:
            return False
        if text not in _FLAGS:
            raise UnreadableError(f"the parameter {name!r} is {text[:40]!r}: give 1 or 0")
        return _FLAGS[text]

    def text(self, name: str) -> str | None:
        """Return a parameter, or None where it is missing or empty."""
        values = self._query.getall(name, [])
        if len(values) > 1:
            raise UnreadableError(f"the parameter {name!r} is given {len(values)} times: give it once")
        return values[0] or None if values else None

    def all(self, name: str) -> tuple[str, ...]:
        """Return a parameter that may be given many times."""
        return tuple(self._query.getall(name, []))


def moment(text: str) -> float:
    """Return the UNIX seconds of a time in RFC 3339, or of so long ago ("10m").

    Raises:
        UnreadableError: it is neither.
    """
    try:
        return time.time() - durations.parse(text)
    except ValueError:
        pass  # no duration, so a time
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise UnreadableError(
            f"{text[:40]!r} is no time: give so long ago, as 10m or 2h, or RFC 3339 with its offset, as 2026-01-31T09:00:00Z"
        )
    return when.timestamp()


def peer_uid(request: web.Request) -> int | None:
    """Return the uid of the process that sent a request; None once it has gone away."""
    transport = request.transport
    return unixsocket.credentials(transport.get_extra_info("socket"))[1] if transport is not None else None


_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


async def caller(request: web.Request) -> Caller:
    """Return who sent a request, by the kernel's word."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    return await asyncio.to_thread(unixsocket.caller_of, transport.get_extra_info("socket"))


def private_key(request: web.Request) -> str | None:
    """Return the private key that came in the header `Flambed-Key`, base64 of the file; it is never quoted.

    Raises:
        UnreadableError: it is no base64 of a text, or too long for a key.
    """
    encoded = request.headers.get(KEY_HEADER)
    if not encoded:
        return None
    try:
        raw = base64.b64decode(encoded, validate=True)
        key = raw.decode("ascii")
    except (binascii.Error, UnicodeError):
        # Without its cause, which quotes it.
        raise UnreadableError(f"the header {KEY_HEADER} is not the base64 of a private key file") from None
    if len(raw) > MOST_KEY_BYTES:
        raise UnreadableError(f"the header {KEY_HEADER} holds {len(raw):,} bytes: no private key is so long")
    return key


async def cluster_file(request: web.Request) -> str:
    """Return the cluster file in a request's body, YAML or JSON; without a Content-Type it is YAML.

    Raises:
        ClusterConfigurationError: it is not UTF-8.
        UnreadableError: it is something else, or nothing.
    """
    if "Content-Type" in request.headers and request.content_type not in _DOCUMENTS:
        raise UnreadableError(
            f"the Content-Type is {request.content_type[:80]!r}: send the cluster file as application/yaml or {_JSON}"
        )
    raw = await _body(request)
    if not raw:
        raise UnreadableError("the body is empty: send the cluster file in it")
    return yamlfile.decode(raw, "cluster file")


async def json_object(
    request: web.Request, *, required: Sequence[str] = (), optional: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the JSON object in a request's body; an empty body is an empty object.

    Raises:
        UnreadableError: it is none, lacks a required key, or has one that means nothing.
    """
    raw = await _body(request)
    try:
        body = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise UnreadableError("the body is no JSON object")
    known = (*required, *optional)
    if missing := [name for name in required if body.get(name) is None]:
        raise UnreadableError(f"the body lacks {' and '.join(repr(name) for name in missing)}")
    if unknown := sorted(set(body) - set(known)):
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise UnreadableError(f"the body has a key {unknown[0][:40]!r} that means nothing: {takes}")
    return body


def duration(body: dict[str, Any], name: str) -> float:
    """Return the seconds of a duration out of a body.

    Raises:
        UnreadableError: it is none, or a number without a unit.
    """
    value = body[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnreadableError(f'{name!r} must be a duration, such as "4h"')
    try:
        return durations.parse(value)
    except ValueError as error:
        raise UnreadableError(f"{name!r}: {error}") from None


def words(body: dict[str, Any], name: str) -> str:
    """Return a text of a person out of a body.

    Raises:
        UnreadableError: it is no text, is empty or too long, or holds what cannot be printed.
    """
    text = body[name]
    if not isinstance(text, str):
        raise UnreadableError(f"{name!r} must be text")
    text = text.strip()
    if not 0 < len(text) <= LONGEST_TEXT or not text.isprintable():
        raise UnreadableError(f"{name!r} must be one line of 1 to {LONGEST_TEXT} printable characters")
    return text


def fingerprint(body: dict[str, Any], name: str) -> str:
    """Return the fingerprint of a host key out of a body.

    Raises:
        UnreadableError: it is none.
    """
    text = words(body, name)
    if not _FINGERPRINT.fullmatch(text):
        raise UnreadableError(f"{name!r} must be a fingerprint as `ssh-keygen -l` prints it: SHA256 and 43 characters")
    return text


def texts(body: dict[str, Any], name: str) -> list[str]:
    """Return a list of texts out of a body.

    Raises:
        UnreadableError: it is no list, or not only of texts.
    """
    found = body[name]
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise UnreadableError(f"{name!r} must be a list of texts")
    return found


async def _body(request: web.Request) -> bytes:
    if (request.content_length or 0) > MOST_BYTES:
        raise web.HTTPRequestEntityTooLarge(max_size=MOST_BYTES, actual_size=request.content_length or 0)
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
