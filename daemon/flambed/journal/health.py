"""Whether the journal can be written. While it cannot, the service is read-only as a whole, and says so once."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from flambed.errors import FlambedError
from flambed.journal.file import JournalError

RETRY: Final = 2.0
"""Seconds after which a journal that could not be written is tried again."""


class ReadOnlyError(FlambedError):
    """The journal, or a key beside it, cannot be written for now, so that nothing may be begun."""


def unwritable(folder: Path, error: OSError) -> ReadOnlyError:
    """Return what is to be told of a state folder that refuses a file."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "make room on its disk" if full else "see to its disk, its folder and their permissions"
    return ReadOnlyError(f"the state folder {folder} cannot be written ({error.strerror}): {advice}; nothing was begun")


class Health:
    """Whether a journal can be written, as of the last try.

    Args:
        retry: writes what is still to be written; while that fails it is called again and again, as there may be nobody
            else who tries.
    """

    def __init__(self, retry: Callable[[], Awaitable[None]]) -> None:
        self._write = retry
        self._trouble: JournalError | None = None
        self._watchers: list[Callable[[str | None], None]] = []
        self._good = asyncio.Event()
        self._good.set()
        self._retrying: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def read_only(self) -> str | None:
        """Why nothing can be written, and what to do; None while it can."""
        if self._trouble is None:
            return None
        return f"{self._trouble}; until then the service is read-only: it begins nothing, and protection goes on"

    def check(self) -> None:
        """Refuse to begin what could not be written down.

        Raises:
            ReadOnlyError: nothing can be.
        """
        if (why := self.read_only) is not None:
            raise ReadOnlyError(why)

    def watch(self, tell: Callable[[str | None], None]) -> None:
        """Have `tell` called with `read_only` when it becomes a text, and when it becomes None again."""
        self._watchers.append(tell)

    async def good(self) -> None:
        """Return when the journal can be written."""
        await self._good.wait()

    def failed(self, error: JournalError) -> None:
        """Take note that something could not be written."""
        first, self._trouble = self._trouble is None, error
        if first:
            self._good.clear()
            self._tell()
        if self._retrying is None and not self._closed:
            self._retrying = asyncio.create_task(self._until_written(), name="journal retry")

    def wrote(self) -> None:
        """Take note that all that was tried was written."""
        if self._trouble is not None:
            self._trouble = None
            self._good.set()
            self._tell()

    async def close(self) -> None:
        """Try no more."""
        self._closed = True
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.gather(self._retrying, return_exceptions=True)

    async def _until_written(self) -> None:
        try:
            while self._trouble is not None:
                await asyncio.sleep(RETRY)
                try:
                    await self._write()
                except JournalError:
                    continue
        finally:
            self._retrying = None

    def _tell(self) -> None:
        for tell in self._watchers:
            tell(self.read_only)
