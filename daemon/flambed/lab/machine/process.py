"""Processes of a pretend host: one asyncio task each, with descriptors, a parent, a group and signals."""

import asyncio
import errno
import logging
import os
import posixpath
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flambed.lab.machine.streams import Null, Stream

if TYPE_CHECKING:
    from flambed.lab.machine.machine import Machine

_log = logging.getLogger(__name__)

CHUNK = 65536  # bytes asked for at a time
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}  # ignored unless somebody handles them
BROKEN_PIPE = 128 + signal.SIGPIPE


@dataclass
class Record:
    """A command as the host's log keeps it: `kind` is exec (of an SSH client), script (a shell's) or command."""

    kind: str
    text: str
    pid: int
    start: float  # UNIX seconds, real time
    end: float | None = None
    code: int | None = None
    script: str | None = None  # what a shell ran, up to 4096 characters

    def finish(self, code: int) -> None:
        """Note the end."""
        self.end, self.code = time.time(), code


class Process:
    """A process; made by `Machine.spawn` or `fork`, running from `start` on."""

    def __init__(self, machine: "Machine", pid: int, argv: list[str], *, user: str, cwd: str) -> None:
        self.machine = machine
        self.pid = pid
        self.parent = 1
        self.group = self.session = pid
        self.argv = argv
        self.user = user
        self.cwd = cwd
        self.environ: dict[str, str] = {}
        self.umask = 0o022
        self.descriptors: dict[int, Stream] = {}
        self.ignored: set[int] = set()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.started = time.time()
        self.status: int | None = None
        self.records: list[Record] = []
        self.on_exit: Callable[[int], None] = lambda _: None
        self.killed_by: int | None = None
        self._task: asyncio.Task[int] | None = None
        self._ended = asyncio.Event()

    # --- life ---

    def fork(self, argv: list[str] | None = None) -> "Process":
        """Return a child with the same descriptors, environment and directory; it runs from `start` on."""
        child = self.machine.spawn(argv or self.argv, user=self.user, cwd=self.cwd)
        child.parent, child.group, child.session = self.pid, self.group, self.session
        child.environ = dict(self.environ)
        child.umask = self.umask
        child.ignored = set(self.ignored)
        child.descriptors = {number: stream.share() for number, stream in self.descriptors.items()}
        return child

    def start(self, main: Callable[["Process"], Awaitable[int]]) -> "Process":
        """Begin to run `main`; what it returns is the exit status."""

        async def body() -> int:
            return await main(self)

        self._task = asyncio.get_running_loop().create_task(body(), name=f"{self.machine.hostname}/{self.pid}")
        self._task.add_done_callback(self._finish)
        return self

    async def wait(self) -> int:
        """Wait for the end and return the exit status, 128 + n for signal n."""
        await self._ended.wait()
        assert self.status is not None
        return self.status

    def send(self, number: int) -> None:
        """Deliver a signal."""
        if self.status is not None or number == 0:
            return
        if number != signal.SIGKILL:
            if number in self.ignored:
                return
            if number in self.handlers:
                self.handlers[number]()
                return
            if number in HARMLESS:
                return
        self.killed_by = number
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[int]) -> None:
        if task.cancelled():
            self.killed_by = self.killed_by or signal.SIGKILL
            status = 128 + self.killed_by
        elif (error := task.exception()) is None:
            status = task.result() & 0xFF
        elif isinstance(error, BrokenPipeError):
            status = BROKEN_PIPE
            self.killed_by = signal.SIGPIPE
        else:
            status = 70  # EX_SOFTWARE: a bug of the lab; what a visitor runs must not end the lab itself
            _log.error("a pretend host's program failed: %s: %s", self.machine.instance_id, self.argv, exc_info=error)
        self.status = status
        for number in list(self.descriptors):
            self.close(number)
        for record in self.records:
            record.finish(status)
        self.machine.reap(self)
        self._ended.set()
        self.on_exit(status)

    # --- descriptors ---

    def redirect(self, number: int, stream: Stream) -> None:
        """Let a descriptor point at `stream`, which is handed over, closing what it pointed at."""
        self.close(number)
        self.descriptors[number] = stream

    def close(self, number: int) -> None:
        """Close a descriptor, if it is open."""
        stream = self.descriptors.pop(number, None)
        if stream is not None:
            stream.release()

    def stream(self, number: int) -> Stream:
        """Return what a descriptor points at. Raises OSError (EBADF)."""
        stream = self.descriptors.get(number)
        if stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(number))
        return stream

    def silence(self) -> None:
        """Point the three standard descriptors at /dev/null."""
        for number in range(3):
            self.redirect(number, Null())

    async def write(self, number: int, data: bytes) -> None:
        """Write to a descriptor; BrokenPipeError is this process's end by SIGPIPE, unless it ignores that."""
        await asyncio.sleep(0)  # who writes for ever to what never blocks must not keep the other hosts from running
        try:
            await self.stream(number).write(data)
        except BrokenPipeError:
            if signal.SIGPIPE in self.ignored:
                raise OSError(errno.EPIPE, os.strerror(errno.EPIPE), "write error") from None
            raise

    async def out(self, text: str) -> None:
        """Write to standard output."""
        await self.write(1, text.encode(errors="surrogateescape"))

    async def err(self, text: str) -> None:
        """Write to standard error, if there is one."""
        if 2 in self.descriptors:
            await self.write(2, text.encode(errors="surrogateescape"))

    async def read_all(self, number: int = 0) -> bytes:
        """Read a descriptor to its end."""
        stream = self.stream(number)
        data = bytearray()
        while chunk := await stream.read(CHUNK):
            data += chunk
        return bytes(data)

    # --- files ---

    def path(self, name: str) -> str:
        """Return the absolute form of a file name. Raises FileNotFoundError for the empty name."""
        if not name:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        path = posixpath.normpath(posixpath.join(self.cwd, name))
        return path[1:] if path.startswith("//") else path

    def open(self, name: str, mode: str) -> Stream:
        """Open a file as `FileSystem.open` does, with this process's umask, user and directory."""
        return self.machine.files.open(self.path(name), mode, create=0o666 & ~self.umask, owner=self.user)

    async def contents(self, names: Iterable[str]) -> bytes:
        """Return the contents of files one after the other; '-', or no name at all, is standard input."""
        parts = [await self.read_all() if name == "-" else self.machine.files.read(self.path(name)) for name in names]
        return b"".join(parts)
