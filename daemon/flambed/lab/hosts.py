"""The pretend hosts: every instance answers SSH on its own loopback address, all on one port, all in one event loop.

What a host is lies in `machine/`, how it answers in `sshd.py`. Here is when: booting, halting, and the faults that
make a host refuse, fall silent, show a wrong key, deny logins, drop connections, hang, or fail commands.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import asyncssh

from flambed.lab.clock import Clock
from flambed.lab.machine import cloudinit, commands  # noqa: F401 - commands fill PROGRAMS
from flambed.lab.machine.machine import Machine
from flambed.lab.machine.programs import PROGRAMS
from flambed.lab.machine.streams import Signal
from flambed.lab.machine.usage import Activity
from flambed.lab.machine.userdata import UserData, parse_user_data
from flambed.lab.sshd import HostServer

REBOOT_SECONDS = 1.0  # from `reboot` to an open port
BACKLOG = 64
REAL_TIME = Clock()


@dataclass(frozen=True)
class HostFault:
    """Something wrong with a host, from now on and until it is replaced or taken away.

    kind      what happens
    refuse    nothing listens; open connections stay
    mute      connections are accepted and nothing is ever said
    wrong_key the host shows a host key of its own making
    deny      logins fail, until `seconds` after the boot if that is not 0
    drop      a connection is aborted `seconds` after a command began on it, if a match of `pattern` is anywhere in the
              command line; the command goes on
    hang      open connections fall silent, new ones are mute; processes go on until they print
    fail      commands, and scripts given to a shell, that begin with a match of `pattern` exit with `code`, unrun

    `pattern` is a regular expression; the empty one matches everything. `count`: how many times drop and fail act;
    None: always. `seconds` are real.
    """

    kind: Literal["refuse", "mute", "wrong_key", "deny", "drop", "hang", "fail"]
    pattern: str = ""
    code: int = 1
    count: int | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for a kind that there is not, or a pattern that is no regular expression."""
        kinds = self.__annotations__["kind"].__args__
        if self.kind not in kinds:
            raise ValueError(f"a host fault is one of {', '.join(kinds)}, not {self.kind!r}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"the pattern {self.pattern!r} of a host fault is no regular expression: {error}"
            ) from None


class Host:
    """The machine of one instance, with its listener and its connections."""

    def __init__(self, machine: Machine, port: int, user_data: UserData) -> None:
        self.machine = machine
        self._port = port
        self._user_data = user_data
        self._fault: HostFault | None = None
        self._left: int | None = None  # times that the fault still acts
        self._booted = 0  # times
        self._up = False
        self._options: dict[bool, asyncssh.SSHServerConnectionOptions] = {}
        self._listening: socket.socket | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thawed = Signal()
        machine.command_fault = self._command_fault
        machine.reload_sshd = self._options.clear  # it shows what lies in /etc/ssh then

    # --- power ---

    def power_on(self) -> None:
        """Boot: listen, and run what the user data says."""
        if self._up:
            raise RuntimeError(f"{self.machine.instance_id} is up already: halt it before booting it again")
        self._up = True
        self._booted += 1
        self.machine.power_on()
        self._listen()
        self.watch(self._initialize(first=self._booted == 1))

    async def _initialize(self, *, first: bool) -> None:
        await cloudinit.run_boothooks(self.machine, self._user_data)
        await cloudinit.run_commands(self.machine, self._user_data, first=first)

    async def power_off(self) -> None:
        """Stop listening, drop every connection and kill every process; return when all of that is done."""
        self._up = False
        self._deafen()
        for connection in list(self._connections):
            connection.abort()
        processes = list(self.machine.processes.values())
        self.machine.power_off()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for process in processes:
            await process.wait()

    async def reboot(self) -> None:
        """Power off, and on again a little later."""
        await self.power_off()
        await asyncio.sleep(REBOOT_SECONDS)
        self.power_on()

    def act(self, activity: Activity) -> None:
        """Be as busy as `activity` says, at once or from the next boot on."""
        if self._up:
            self.machine.act(activity)
        else:
            self.machine.activity = activity

    def watch(self, running: Coroutine[None, None, None]) -> None:
        """Run something for as long as the host is up."""
        task = asyncio.get_running_loop().create_task(running)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- faults ---

    def set_fault(self, fault: HostFault | None) -> None:
        """Put a fault in place of the one there is."""
        self._fault = fault
        self._left = fault.count if fault else None
        for connection in self._connections:
            _hold(connection, held=self._has("hang"))
        if not self._has("hang"):
            self._thawed.wake()
        if self._has("refuse"):
            self._deafen()
        elif self._up and self._listening is None:
            self._listen()

    def _has(self, kind: str) -> bool:
        return self._fault is not None and self._fault.kind == kind

    def _acts(self, kind: str) -> HostFault | None:
        """Return the fault if it is of this kind and acts once more."""
        if not self._has(kind) or self._left == 0:
            return None
        if self._left is not None:
            self._left -= 1
        return self._fault

    def _command_fault(self, text: str) -> int | None:
        if self._fault is None or not self._has("fail") or not re.match(self._fault.pattern, text):
            return None
        return self._fault.code if self._acts("fail") else None

    # --- what connections ask and tell ---

    def admits(self) -> bool:
        """Whether logins may succeed."""
        if self._fault is None or self._fault.kind != "deny":
            return True
        return 0 < self._fault.seconds <= self.machine.uptime()

    async def answering(self) -> None:
        """Wait while the host hangs."""
        while self._has("hang"):
            await self._thawed.wait()

    def opened(self, connection: asyncssh.SSHServerConnection) -> None:
        """Note a connection."""
        self._connections.add(connection)

    def closed(self, connection: asyncssh.SSHServerConnection) -> None:
        """Note the end of a connection."""
        self._connections.discard(connection)

    def command_began(self, connection: asyncssh.SSHServerConnection, command: str) -> None:
        """Drop the connection later, if it is to be dropped."""
        if self._fault and self._has("drop") and re.search(self._fault.pattern, command) and self._acts("drop"):
            asyncio.get_running_loop().call_later(self._fault.seconds, connection.abort)

    # --- listening ---

    def _listen(self) -> None:
        if self._has("refuse"):
            return
        self._listening = socket.create_server((self.machine.address, self._port), backlog=BACKLOG)
        self._listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    def _deafen(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def _accept(self, listening: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionError):  # gone before it was accepted
            client, _ = listening.accept()
            client.setblocking(False)
            self.watch(self._ignore(client) if self._has("mute") or self._has("hang") else self._serve(client))

    async def _ignore(self, client: socket.socket) -> None:
        """Say nothing until the client has had enough."""
        with client, suppress(ConnectionError):
            while await asyncio.get_running_loop().sock_recv(client, 4096):
                pass

    async def _serve(self, client: socket.socket) -> None:
        """Speak SSH, once the boot is that far; a client that does not get in is no error here."""
        await self.machine.ready_for_ssh.wait()
        with suppress(asyncssh.Error, OSError):
            await asyncssh.run_server(client, options=self._speaking(wrong_key=self._has("wrong_key")))

    def _speaking(self, *, wrong_key: bool) -> asyncssh.SSHServerConnectionOptions:
        if wrong_key not in self._options:
            keys = [asyncssh.generate_private_key("ssh-ed25519")] if wrong_key else cloudinit.host_keys(self.machine)
            self._options[wrong_key] = asyncssh.SSHServerConnectionOptions(
                server_factory=partial(HostServer, self),
                server_host_keys=keys,
                server_version="OpenSSH_9.6p1-lab",
                encoding=None,
                line_editor=False,
                compression_algs=None,
                agent_forwarding=False,
                login_timeout=120,
            )
        return self._options[wrong_key]


def _hold(connection: asyncssh.SSHServerConnection, *, held: bool) -> None:
    """Stop or go on reading what a client sends: asyncssh has no word for a server that answers nothing."""
    transport = connection._transport  # noqa: SLF001
    if isinstance(transport, asyncio.ReadTransport) and not transport.is_closing():
        if held:
            transport.pause_reading()
        else:
            transport.resume_reading()


class Hosts:
    """All hosts of the lab. Everything here is to be called in the event loop."""

    def __init__(self, *, on_poweroff: Callable[[str], None], seed: int, clock: Clock = REAL_TIME) -> None:
        """`on_poweroff` is called with the instance id when a host switches itself off; halting it is the caller's."""
        self._on_poweroff = on_poweroff
        self._seed = seed
        self._clock = clock
        self._hosts: dict[str, Host] = {}
        self._faults: dict[str, HostFault] = {}
        self._activities: dict[str, Activity] = {}
        self._reserved: socket.socket | None = None
        self._port = 0
        self._reboots: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> int:
        """Choose the TCP port of all hosts, or take `port`, and return it.

        It is kept from other programs by a socket on 127.0.0.1, where no host lives. Raises OSError if it is taken.
        """
        if port == 0:
            with socket.socket() as probe:
                probe.bind(("0.0.0.0", 0))  # noqa: S104 - chooses a port that is free on every address; nobody listens
                port = probe.getsockname()[1]
        reserved = socket.socket()
        try:
            reserved.bind(("127.0.0.1", port))
        except OSError:
            reserved.close()
            raise
        self._reserved = reserved
        self._port = port
        return port

    async def boot(
        self, instance_id: str, address: str, *, authorized_keys: Sequence[str], user_data: bytes | None
    ) -> None:
        """Begin to answer SSH on the loopback address `address`; return once the port is open.

        `authorized_keys` are lines of that file for the users ubuntu, ec2-user and admin. Keys and user data count
        at the first boot only: a host that was halted keeps its files and its host keys. Its bootcmd, runcmd and
        scripts run on after the return. Raises RuntimeError if it is up already, OSError if the address is taken.
        """
        host = self._hosts.get(instance_id)
        if host is None:
            machine = Machine(
                instance_id,
                address,
                programs=[name for name in PROGRAMS if name != "nvidia-smi"],
                seed=self._seed,
                on_poweroff=partial(self._on_poweroff, instance_id),
                on_reboot=partial(self._begin_reboot, instance_id),
                clock=self._clock,
            )
            machine.activity = self._activities.get(instance_id, machine.activity)
            data = parse_user_data(user_data)
            cloudinit.first_boot(machine, data, user_data, authorized_keys)
            host = self._hosts[instance_id] = Host(machine, self._port, data)
            host.set_fault(self._faults.get(instance_id))
        host.power_on()

    async def halt(self, instance_id: str, *, forget: bool) -> None:
        """Drop the host's connections and kill its processes; with `forget` its files are gone too.

        A host that never booted, or is halted already, is left as it is.
        """
        host = self._hosts.get(instance_id)
        if host is not None:
            await host.power_off()
        if forget:
            self._hosts.pop(instance_id, None)
            self._faults.pop(instance_id, None)
            self._activities.pop(instance_id, None)

    async def reboot(self, instance_id: str) -> None:
        """Halt the host and boot it again a second later. Raises KeyError for a host that never booted."""
        await self._hosts[instance_id].reboot()

    def console(self, instance_id: str) -> str:
        """Return what the serial console has shown; nothing for a host that never booted."""
        host = self._hosts.get(instance_id)
        return host.machine.console if host else ""

    def set_fault(self, instance_id: str, fault: HostFault | None) -> None:
        """Put a fault on a host, which need not have booted yet, in place of the one it has; None takes it away."""
        if fault is None:
            self._faults.pop(instance_id, None)
        else:
            self._faults[instance_id] = fault
        if instance_id in self._hosts:
            self._hosts[instance_id].set_fault(fault)

    def set_activity(self, instance_id: str, *, load: float = 0.0, gpus: Sequence[int] = ()) -> None:
        """Set the load average and how busy each GPU is, in percent; without GPUs there is no nvidia-smi.

        Raises KeyError for a host that never booted.
        """
        machine = self._hosts[instance_id].machine
        machine.load = load
        machine.set_gpus(gpus)

    def act(self, instance_id: str, **changes: Any) -> None:
        """Change some of a host's `Activity`, which need not have booted yet."""
        activity = replace(self._activities.get(instance_id, Activity()), **changes)
        self._activities[instance_id] = activity
        host = self._hosts.get(instance_id)
        if host is not None:
            host.act(activity)

    def machine(self, instance_id: str) -> Machine:
        """Return what a host is made of. Raises KeyError for a host that never booted."""
        return self._hosts[instance_id].machine

    def view(self, instance_id: str) -> dict[str, Any]:
        """Return the host as JSON: see `Machine.view`. Raises KeyError for a host that never booted."""
        return self._hosts[instance_id].machine.view()

    async def close(self) -> None:
        """Halt every host and give the port back."""
        for reboot in list(self._reboots):
            reboot.cancel()
        await asyncio.gather(*self._reboots, return_exceptions=True)
        await asyncio.gather(*(self.halt(instance_id, forget=True) for instance_id in list(self._hosts)))
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def _begin_reboot(self, instance_id: str) -> None:
        task = asyncio.get_running_loop().create_task(self.reboot(instance_id))
        self._reboots.add(task)
        task.add_done_callback(self._reboots.discard)


__all__ = ["HostFault", "Hosts"]
