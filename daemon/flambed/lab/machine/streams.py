"""What a file descriptor of a pretend process points at.

A stream is an open file description: descriptors share it, it counts them, and it closes with the last one. So a
pipe ends when its last writer is gone and a lock is released when its last holder is, as on Linux.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress

PIPE_CAPACITY = 65536  # bytes, as on Linux


class Stream(ABC):
    """An open file description, shared by the descriptors that were duplicated from one another."""

    def __init__(self) -> None:
        self._references = 1

    def share(self) -> "Stream":
        """Count one more descriptor, and return the stream itself."""
        self._references += 1
        return self

    def release(self) -> None:
        """Count one descriptor less; the last one closes the stream."""
        self._references -= 1
        if self._references == 0:
            self._close()

    @abstractmethod
    async def read(self, size: int) -> bytes:
        """Return 1 to `size` bytes as soon as there are any, or nothing at the end."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Take all of `data`.

        Raises BrokenPipeError where nobody is left to read it.
        """

    @abstractmethod
    def _close(self) -> None:
        """Let go of what the stream holds; called once."""


class Signal:
    """Wakes everybody who waits for something to change."""

    def __init__(self) -> None:
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait for the next `wake`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            with suppress(ValueError):  # woken: `wake` has taken it out
                self._waiters.remove(waiter)

    def wake(self) -> None:
        """Wake those who wait now, the longest-waiting first."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)


class Pipe:
    """Bytes on their way between processes; `capacity` bytes fit before a writer waits."""

    def __init__(self, capacity: int = PIPE_CAPACITY) -> None:
        self.buffer = bytearray()
        self.capacity = capacity
        self.changed = Signal()
        self.reader = PipeReader(self)
        self.writer = PipeWriter(self)
        self.readable = True
        self.writable = True
        self.on_read: Callable[[], None] = lambda: None


class PipeReader(Stream):
    """The end of a pipe that is read."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    async def read(self, size: int) -> bytes:
        """Return what is there; nothing once all writers are gone."""
        pipe = self._pipe
        while not pipe.buffer and pipe.writable:
            await pipe.changed.wait()
        data = bytes(pipe.buffer[:size])
        del pipe.buffer[:size]
        pipe.changed.wake()
        pipe.on_read()
        return data

    async def write(self, data: bytes) -> None:  # noqa: ARG002 - the signature is the base's
        """Refuse `data`: this end is for reading."""
        raise OSError(9, "Bad file descriptor")

    def _close(self) -> None:
        self._pipe.readable = False
        self._pipe.changed.wake()


class PipeWriter(Stream):
    """The end of a pipe that is written."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    async def read(self, size: int) -> bytes:  # noqa: ARG002 - the signature is the base's
        """Refuse: this end is for writing."""
        raise OSError(9, "Bad file descriptor")

    async def write(self, data: bytes) -> None:
        """Append `data`, waiting while the pipe is full."""
        view = memoryview(data)
        pipe = self._pipe
        while True:
            if not pipe.readable:
                raise BrokenPipeError(32, "Broken pipe")
            room = pipe.capacity - len(pipe.buffer)
            if room > 0:
                pipe.buffer += view[:room]
                view = view[room:]
                pipe.changed.wake()
            if not view:
                return
            await pipe.changed.wait()

    def feed(self, data: bytes) -> None:
        """Append `data` at once, whatever the capacity: what arrives from a network cannot be asked to wait."""
        if self._pipe.readable:
            self._pipe.buffer += data
            self._pipe.changed.wake()

    def _close(self) -> None:
        self._pipe.writable = False
        self._pipe.changed.wake()


class Null(Stream):
    """/dev/null."""

    async def read(self, size: int) -> bytes:  # noqa: ARG002 - the signature is the base's
        """Be at the end."""
        return b""

    async def write(self, data: bytes) -> None:
        """Forget `data`."""

    def _close(self) -> None:
        pass


class FileLock:
    """The advisory lock of one file, as flock(2) keeps it: held by streams, not by processes."""

    def __init__(self) -> None:
        self._holders: dict[Stream, bool] = {}  # holder -> exclusive
        self._released = Signal()

    def take(self, holder: Stream, *, exclusive: bool) -> bool:
        """Lock for `holder` if nobody is in the way; True if it is locked now."""
        others = [held for stream, held in self._holders.items() if stream is not holder]
        if any(others) or (exclusive and others):
            return False
        self._holders[holder] = exclusive
        return True

    async def acquire(self, holder: Stream, *, exclusive: bool) -> None:
        """Lock for `holder`, waiting for those in the way."""
        while not self.take(holder, exclusive=exclusive):
            await self._released.wait()

    def drop(self, holder: Stream) -> None:
        """Unlock what `holder` holds, if it holds anything."""
        if self._holders.pop(holder, None) is not None:
            self._released.wake()
