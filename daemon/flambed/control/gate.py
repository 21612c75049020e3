"""Who is let in: so many connections of one user at a time, so that none can use up the service's descriptors."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Final

from flambed.control import unixsocket

MOST_OF_A_USER: Final = 256
"""Connections; flambectl has one at a time, and a descriptor is needed for each host and each call to AWS, too."""


class Gate:
    """Counts connections by uid.

    Args:
        crowded: is told the uid and the number when a user has as many as there may be; again once they were fewer.
    """

    def __init__(self, crowded: Callable[[int, int], None], *, most: int = MOST_OF_A_USER) -> None:
        self.most = most
        self._crowded = crowded
        self._open: Counter[int] = Counter()
        self._told: set[int] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    async def empty(self) -> None:
        """Return when no connection is open."""
        await self._empty.wait()

    def protocol(self, behind: asyncio.Protocol) -> asyncio.Protocol:
        """Return what a new connection goes through to a protocol."""
        return _Passage(self, behind)

    def enter(self, uid: int) -> bool:
        """Return whether one more connection of this user is let in."""
        if self._open[uid] >= self.most:
            if uid not in self._told:
                self._told.add(uid)
                self._crowded(uid, self._open[uid])
            return False
        self._open[uid] += 1
        self._empty.clear()
        return True

    def leave(self, uid: int) -> None:
        """A connection that was let in has ended."""
        self._open[uid] -= 1
        self._told.discard(uid)
        if not self._open[uid]:
            del self._open[uid]
        if not self._open:
            self._empty.set()


class _Passage(asyncio.Protocol):
    def __init__(self, gate: Gate, behind: asyncio.Protocol) -> None:
        self._gate = gate
        self._behind = behind
        self._uid: int | None = None  # of who was let in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "the socket is a stream"
        _pid, uid, _gid = unixsocket.credentials(transport.get_extra_info("socket"))
        if self._gate.enter(uid):
            self._uid = uid
            self._behind.connection_made(transport)
        else:
            transport.write(_refusal(uid, self._gate.most))
            transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._uid is not None:
            self._gate.leave(self._uid)
            self._behind.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self._uid is not None:
            self._behind.data_received(data)

    def eof_received(self) -> bool | None:
        return self._behind.eof_received() if self._uid is not None else None

    def pause_writing(self) -> None:
        if self._uid is not None:
            self._behind.pause_writing()

    def resume_writing(self) -> None:
        if self._uid is not None:
            self._behind.resume_writing()


def _refusal(uid: int, most: int) -> bytes:
    message = f"uid {uid} has {most} connections open, and may have no more: close some of them"
    body = json.dumps({"error": {"code": "unavailable", "message": message, "detail": []}}).encode() + b"\n"
    head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
