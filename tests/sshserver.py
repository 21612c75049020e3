"""Real SSH on loopback for tests: a host whose commands run under the real sh in a folder of the test, and a wire to it.

Commands get HOME set to that folder, which is also how what a test left behind is found and ended.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from flambed.ssh import Target, new_host_key

HOST_KEY, HOST_PUBLIC = new_host_key()
LOGIN_KEY, LOGIN_PUBLIC = new_host_key()


@dataclass
class SshHost:
    """A host that answers SSH. Change `lets_in` at any time; `commands` are all that were asked for."""

    home: Path
    port: int = 0
    lets_in: bool = True
    greeting: str = ""  # what the login shell runs before each command
    commands: list[str] = field(default_factory=list)
    asked: asyncio.Condition = field(default_factory=asyncio.Condition)  # notified of each command
    refused: asyncio.Event = field(default_factory=asyncio.Event)  # a login, at least once
    attempts: int = 0  # connections, whatever became of them
    open: int = 0
    all_closed: asyncio.Event = field(default_factory=asyncio.Event)
    handlers: set[asyncio.Task[None]] = field(default_factory=set)

    def target(self, **changes: object) -> Target:
        """How to reach it, with `changes`."""
        values: dict[str, object] = {
            "address": "127.0.0.1",
            "port": self.port,
            "username": "ubuntu",
            "host_keys": (HOST_PUBLIC,),
            "client_key": LOGIN_KEY,
        }
        return Target(**(values | changes))  # type: ignore[arg-type]  # a test may want anything

    async def wait_for_commands(self, number: int) -> None:
        """Return when that many commands have been asked for in all; at most 20 s."""
        async with asyncio.timeout(20), self.asked:
            await self.asked.wait_for(lambda: len(self.commands) >= number)

    def accept(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Begin to run a command in a task of the host's own: it survives the connection, as with sshd."""
        self.handlers.add(asyncio.create_task(self._run(process)))

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or ""
        async with self.asked:
            self.commands.append(command)
            self.asked.notify_all()
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            self.greeting + command,
            cwd=self.home,
            env={"HOME": str(self.home), "PATH": os.environ["PATH"]},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        assert child.stdin
        assert child.stdout
        assert child.stderr
        feeding = asyncio.create_task(_feed(process.stdin, child.stdin))
        await asyncio.gather(_show(child.stdout, process.stdout), _show(child.stderr, process.stderr))
        code = await child.wait()
        feeding.cancel()
        await asyncio.wait([feeding])
        child.stdin.close()
        if process.is_closing():
            return
        if code >= 0:
            process.exit(code)
        else:
            process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))


async def _feed(source: asyncssh.SSHReader[bytes], sink: asyncio.StreamWriter) -> None:
    with suppress(asyncssh.Error, OSError):  # the connection or the command has ended
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


async def _show(source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
    while data := await source.read(65536):
        with suppress(OSError):  # nobody looks any more
            sink.write(data)
            await sink.drain()


class _Door(asyncssh.SSHServer):
    def __init__(self, host: SshHost) -> None:
        self._host = host

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._host.attempts += 1
        self._host.open += 1
        self._host.all_closed.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.open -= 1
        if not self._host.open:
            self._host.all_closed.set()

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        welcome = self._host.lets_in and key == asyncssh.import_public_key(LOGIN_PUBLIC)
        if not welcome:
            self._host.refused.set()
        return welcome


@asynccontextmanager
async def ssh_host(home: Path, *, host_key: str = HOST_KEY, on: socket.socket | None = None) -> AsyncIterator[SshHost]:
    """A host that answers on a loopback port, or on the socket `on`; at the end everything of it is gone."""
    host = SshHost(home)
    server = await asyncssh.listen(
        "" if on else "127.0.0.1",
        0,
        sock=on,
        server_factory=lambda: _Door(host),
        server_host_keys=[asyncssh.import_private_key(host_key)],
        process_factory=host.accept,
        encoding=None,
    )
    host.port = server.get_port()
    try:
        yield host
    finally:
        server.close()
        async with asyncio.timeout(10):
            # A command that was asked for just now may still be about to start.
            while processes_of(home) or not all(handler.done() for handler in host.handlers):
                end_processes(home)
                await asyncio.sleep(0.01)
            await asyncio.gather(*host.handlers)
            await server.wait_closed()
            if host.open:
                await host.all_closed.wait()


class Wire:
    """A TCP connection to a host that a test can cut or freeze."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self._flows = asyncio.Event()
        self._flows.set()
        self._ends: set[asyncio.StreamWriter] = set()

    def freeze(self) -> None:
        """Nothing gets through any more, and nothing tells so."""
        self._flows.clear()

    def cut(self) -> None:
        """Reset all connections; new ones work."""
        for end in self._ends:
            end.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._ends |= {writer, far_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer))
        finally:
            self._ends -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def wire_to(host: SshHost) -> AsyncIterator[Wire]:
    """A wire to `host`: connect to its port instead of the host's."""
    wire = Wire(host.port)
    server = await asyncio.start_server(wire._serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire._flows.set()
        wire.cut()
        await server.wait_closed()


class Gate:
    """Where a command waits until the test lets it go on: `gate.command` tells that it is there, and waits."""

    def __init__(self, home: Path) -> None:
        self.command = 'echo here >"$HOME/reached"; read -r line <"$HOME/go"'
        for name in ("reached", "go"):
            os.mkfifo(home / name)
        # Opened for both directions a pipe is never closed and never in the way of whoever opens it next.
        self._reached = os.open(home / "reached", os.O_RDWR | os.O_NONBLOCK)
        self._go = os.open(home / "go", os.O_RDWR | os.O_NONBLOCK)

    def wait(self) -> None:
        """Return when a command has come to the gate."""
        ready, _, _ = select.select([self._reached], [], [], 20)
        assert ready, "no command came to the gate within 20 s"
        os.read(self._reached, 5)

    def let_go(self) -> None:
        """Let one command pass."""
        os.write(self._go, b"go\n")

    def close(self) -> None:
        """Take the gate away."""
        os.close(self._reached)
        os.close(self._go)


def processes_of(home: Path, named: str = "") -> list[int]:
    """The ids of the processes whose HOME is `home`, and whose command line begins with `named`."""
    mark = f"HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it ended meanwhile, or belongs to somebody else
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes()
                    if words and words.startswith(named.encode()):
                        found.append(int(entry.name))
    return found


def end_processes(home: Path) -> None:
    """End what runs with this HOME, and what that starts meanwhile."""
    while running := processes_of(home):
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill_runner(home: Path) -> None:
    """Kill the detached command with all that belongs to it, as a power cut would."""
    (session,) = {os.getsid(pid) for pid in processes_of(home, "flock")}
    assert session != os.getsid(0), "the command has no session of its own"
    os.killpg(session, signal.SIGKILL)


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Return once `condition` holds, which nothing tells of; at most 20 s."""
    for _ in range(2000):
        if condition():
            return
        select.select([], [], [], 0.01)
    raise AssertionError(f"not within 20 s: {what}")
