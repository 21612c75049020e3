"""How a pretend host answers SSH: logins by the keys in its files, commands as its processes.

As with OpenSSH, a command goes on when its client is gone, until it next writes to the channel; a channel closes when
the command has ended and nobody holds its output any more; with a terminal a lost connection hangs up.
"""

import errno
import signal
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Protocol

import asyncssh

from flambed.lab.machine.commands.signals import signal_number
from flambed.lab.machine.machine import Login, Machine
from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import PROGRAMS, run
from flambed.lab.machine.streams import Pipe, Signal, Stream
from flambed.lab.machine.terminal import LineDiscipline, prompt_loop

INPUT_LIMIT = 1 << 20  # bytes of unread input at which a client is asked to wait


class Keeper(Protocol):
    """The host as its connections see it."""

    machine: Machine

    def admits(self) -> bool:
        """Whether logins may succeed."""

    async def answering(self) -> None:
        """Wait while nothing leaves the host."""

    def opened(self, connection: asyncssh.SSHServerConnection) -> None:
        """Note a connection."""

    def closed(self, connection: asyncssh.SSHServerConnection) -> None:
        """Note the end of a connection."""

    def command_began(self, connection: asyncssh.SSHServerConnection, command: str) -> None:
        """Note a command, after which the connection may be made to drop."""

    def watch(self, running: Coroutine[None, None, None]) -> None:
        """Run something for as long as the host is up."""


class HostServer(asyncssh.SSHServer):
    """One connection to a host."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._connection: asyncssh.SSHServerConnection | None = None
        self._logout: Callable[[], None] = lambda: None
        self._user = ""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Note the connection."""
        self._connection = conn
        self._keeper.opened(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncssh's
        """Log the user out."""
        self._logout()
        if self._connection is not None:
            self._keeper.closed(self._connection)

    def begin_auth(self, username: str) -> bool:
        """Ask for a key, always."""
        self._user = username
        return True

    def public_key_auth_supported(self) -> bool:
        """Accept keys, and nothing else."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Look the key up in the user's authorized_keys."""
        known = (_public_data(line) for line in self._keeper.machine.authorized_keys(username))
        return self._keeper.admits() and key.public_data in known

    def auth_completed(self) -> None:
        """Log the user in."""
        assert self._connection is not None
        source = str(self._connection.get_extra_info("peername")[0])
        self._logout = self._keeper.machine.login(Login(self._user, source))

    def session_requested(self) -> "Session":
        """Open a session."""
        assert self._connection is not None
        return Session(self._keeper, self._connection, self._user)


@lru_cache(maxsize=1024)
def _public_data(line: str) -> bytes | None:
    """Return the key in a line of authorized_keys."""
    try:
        return asyncssh.import_public_key(line).public_data
    except asyncssh.KeyImportError:
        return None


class ChannelOutput(Stream):
    """Standard output or standard error of a session."""

    def __init__(self, session: "Session", kind: int | None) -> None:
        super().__init__()
        self._session = session
        self._kind = kind

    async def read(self, size: int) -> bytes:
        """Read from the terminal, if there is one."""
        return await self._session.input.reader.read(size)

    async def write(self, data: bytes) -> None:
        """Send `data` to the client."""
        await self._session.send(data, self._kind)

    def _close(self) -> None:
        self._session.output_closed()


class Session(asyncssh.SSHServerSession[bytes]):
    """A channel that runs a command, or a shell."""

    def __init__(self, keeper: Keeper, connection: asyncssh.SSHServerConnection, user: str) -> None:
        self.input = Pipe()
        self._keeper = keeper
        self._connection = connection
        self._user = user
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._process: Process | None = None
        self._terminal: LineDiscipline | None = None
        self._device = ""  # the terminal's name below /dev/pts
        self._command: str | None = None
        self._environment: dict[str, str] = {}
        self._changed = Signal()
        self._writable = True
        self._lost = False
        self._input_open = True
        self._outputs = 2  # standard output and standard error, until all who hold them have closed them
        self._reading = True

    # --- requests ---

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Keep the channel."""
        self._channel = chan

    def pty_requested(self, term_type: str, term_size: object, term_modes: object) -> bool:  # noqa: ARG002 - sizes mean nothing here
        """Give the session a terminal."""
        self._environment["TERM"] = term_type
        self._terminal = LineDiscipline(self.input.writer, self._echo, self._interrupt)
        self._device = self._keeper.machine.usage.open_terminal()
        return True

    def shell_requested(self) -> bool:
        """Allow a shell."""
        return True

    def exec_requested(self, command: str) -> bool:
        """Allow a command."""
        self._command = command
        return True

    def session_started(self) -> None:
        """Start the process."""
        machine = self._keeper.machine
        argv = ["bash"] if self._command is None else ["bash", "-c", self._command]
        process = self._process = machine.spawn(argv, user=self._user)
        process.environ |= self._environment
        process.descriptors = {0: self.input.reader, 1: ChannelOutput(self, None), 2: ChannelOutput(self, self._errors)}
        process.records.append(machine.record(process, "exec", self._command or "(shell)"))
        self.input.on_read = self._input_read

        async def main(process: Process) -> int:
            if self._terminal and self._command is None:
                return await prompt_loop(process)
            return await run(process, PROGRAMS["bash"], argv)

        process.start(main)
        self._keeper.watch(self._conclude(process))
        self._keeper.command_began(self._connection, self._command or "")

    @property
    def _errors(self) -> int | None:
        return None if self._terminal else asyncssh.EXTENDED_DATA_STDERR

    async def _conclude(self, process: Process) -> None:
        """Close the channel when the process has ended and nobody holds its output."""
        status = await process.wait()
        while self._outputs and not self._lost:
            await self._changed.wait()
        await self._keeper.answering()
        if self._lost or self._channel is None:
            return
        if process.killed_by is None:
            self._channel.exit(status)
        else:
            self._channel.exit_with_signal(signal.Signals(process.killed_by).name.removeprefix("SIG"))

    # --- input ---

    def data_received(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002 - clients send one kind
        """Pass input on to the process."""
        if self._terminal:
            self._keeper.machine.usage.typed(self._device)
            self._terminal.feed(data)
        elif self._input_open:
            self.input.writer.feed(data)
        if self._channel is not None and self._reading and len(self.input.buffer) > INPUT_LIMIT:
            self._reading = False
            self._channel.pause_reading()

    def _input_read(self) -> None:
        if self._channel is not None and not self._reading and len(self.input.buffer) < INPUT_LIMIT:
            self._reading = True
            self._channel.resume_reading()

    def eof_received(self) -> bool:
        """End the process's input, and keep the channel for its output."""
        self._end_input()
        return True

    def _end_input(self) -> None:
        if self._terminal:
            self._terminal.end()
        elif self._input_open:
            self.input.writer.release()
        self._input_open = False

    def signal_received(self, signal: str) -> None:
        """Send a signal to the process."""
        if self._process is not None:
            self._process.send(signal_number(signal))

    def _interrupt(self) -> bool:
        assert self._process is not None
        running = [p for p in self._foreground() if p is not self._process]
        for each in running:
            each.send(signal_number("INT"))
        return bool(running)

    def _foreground(self) -> list[Process]:
        """Return the processes of this session's terminal."""
        assert self._process is not None
        return [p for p in self._keeper.machine.processes.values() if p.session == self._process.pid]

    # --- output ---

    async def send(self, data: bytes, kind: int | None) -> None:
        """Send output to the client, waiting while it does not take any. Raises BrokenPipeError once it is gone."""
        if self._terminal:
            data = data.replace(b"\n", b"\r\n")
        await self._keeper.answering()
        while not self._writable and not self._lost:
            await self._changed.wait()
        if self._lost or self._channel is None:
            raise BrokenPipeError(errno.EPIPE, "the client is gone")
        self._channel.write(data, kind)

    def _echo(self, data: bytes) -> None:
        if self._channel is not None and not self._lost:
            self._channel.write(data)

    def pause_writing(self) -> None:
        """Hold output back: the client does not take any more."""
        self._writable = False

    def resume_writing(self) -> None:
        """Go on with output."""
        self._writable = True
        self._changed.wake()

    def output_closed(self) -> None:
        """Note that one of the outputs has no holder any more."""
        self._outputs -= 1
        self._changed.wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the signature is asyncssh's
        """End the input, let further output fail, and hang up the terminal."""
        self._lost = True
        self._changed.wake()
        self._keeper.machine.usage.close_terminal(self._device)
        self._end_input()
        if self._terminal and self._process is not None:
            for each in self._foreground():
                each.send(signal_number("HUP"))
