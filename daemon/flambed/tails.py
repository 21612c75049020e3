"""The ends of long texts: where something has to be cut, the end is what tells."""

from __future__ import annotations

from collections import deque


class Tail:
    """The last `limit` bytes of a stream of bytes, in memory of about that size.

    Args:
        dropped: how many bytes of the stream are gone already.
    """

    def __init__(self, limit: int, dropped: int = 0) -> None:
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._dropped = dropped

    def add(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._chunks.append(data)
        self._held += len(data)
        while self._held - len(self._chunks[0]) >= self._limit:
            oldest = len(self._chunks.popleft())
            self._held -= oldest
            self._dropped += oldest

    def text(self) -> str:
        """What is kept, as UTF-8 with replacements; where that is not all, the first line says how much is gone."""
        data = b"".join(self._chunks)
        dropped = self._dropped + max(len(data) - self._limit, 0)
        kept = data[-self._limit :].decode(errors="replace")
        return f"[flambed: the first {dropped} bytes are not kept]\n{kept}" if dropped else kept


def last_bytes(text: str, limit: int, dropped: int = 0) -> str:
    """The last `limit` bytes of `text` in UTF-8, as a `Tail` tells them."""
    tail = Tail(limit, dropped)
    tail.add(text.encode(errors="replace"))
    return tail.text()


def last_lines(text: str, lines: int) -> str:
    """The last `lines` (at least one) lines of `text`, without blank ones at its end."""
    return "\n".join(text.rstrip().splitlines()[-lines:])
