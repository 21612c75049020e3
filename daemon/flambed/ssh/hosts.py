"""Connecting to hosts, trusting them, and running commands on them."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import asyncssh

from flambed.errors import Reason, StepError
from flambed.hostkey import fingerprint
from flambed.ssh.keys import as_text, private_key, public_key
from flambed.tails import Tail

OUTPUT_LIMIT = 128 * 1024
"""The most that `Host.run` keeps of each of a command's two outputs, bytes; the beginning goes."""


class SshError(StepError):
    """Something about SSH that may be expected of a host.

    Its reason is UNREACHABLE, LOGIN_REFUSED, HOST_KEY_CHANGED, HOST_KEY_UNKNOWN, CONNECTION_LOST or TIMED_OUT; its code
    is the system's or the SSH library's own word for it, as ECONNREFUSED or PermissionDenied.
    """


class HostKeyChangedError(SshError):
    """A host shows another key than the pinned ones, and was not logged in to.

    Attributes:
        shown: its public key, OpenSSH format; None: it has no key of a pinned kind.
    """

    def __init__(self, code: str, target: Target, shown: str | None) -> None:
        pinned = " or ".join(fingerprint(key) for key in target.host_keys)
        key = fingerprint(shown) if shown else "one of another kind"
        super().__init__(
            Reason.HOST_KEY_CHANGED,
            code,
            f"{target} shows another host key than the pinned one and was not logged in to ({key}, not {pinned}): it is "
            "another machine, or its keys were made anew; `flambectl trust` takes the new one, once somebody has checked it",
        )
        self.shown = shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A host, how it proves who it is, and how we do."""

    address: str  # an IP address or a DNS name
    port: int = 22
    username: str
    host_keys: tuple[str, ...]  # the public keys that it may show, OpenSSH format
    client_key: str = field(repr=False)  # our private key, its text

    def __str__(self) -> str:
        return f"{self.username}@{self.address} port {self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a host may be silent, seconds."""

    connect: float = 5.0  # until it takes a TCP connection
    login: float = 15.0  # from then until we are logged in
    keepalive: float = 15.0  # between two signs of life; after `missed` without an answer the connection is lost
    missed: int = 2


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: its exit code (128 + N for signal N) and what it printed, as UTF-8 or replaced."""

    code: int
    stdout: str
    stderr: str


class _Execution(asyncssh.SSHClientSession[bytes]):
    """Listens to one command: keeps the ends of what it prints, and tells when its channel is closed."""

    def __init__(self) -> None:
        self.stdout = Tail(OUTPUT_LIMIT)
        self.stderr = Tail(OUTPUT_LIMIT)
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        (self.stderr if datatype == asyncssh.EXTENDED_DATA_STDERR else self.stdout).add(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(exc)


class Host:
    """A host that we are logged in to."""

    def __init__(self, target: Target, connection: asyncssh.SSHClientConnection) -> None:
        self._target = target
        self._connection = connection
        shown = connection.get_server_host_key()
        assert shown is not None, "nobody logs in without one"
        self.host_key: str = as_text(shown)
        """The public key that it has shown, one of the target's, OpenSSH format."""

    async def run(self, command: str, *, stdin: str | bytes = b"", timeout: float) -> Result:  # noqa: ASYNC109 - told in the error
        """Run `command` in the user's login shell, without a terminal, and wait for its end.

        Args:
            command: a command line; whatever is secret belongs into `stdin` instead.
            stdin: all that the command can read.
            timeout: seconds, after which its channel is closed; what does not notice that goes on on the host.

        Raises:
            SshError: CONNECTION_LOST, before it began or while it ran; TIMED_OUT.
        """
        execution = _Execution()
        with ExitStack() as at_end:
            try:
                async with asyncio.timeout(timeout):
                    channel, _ = await self._connection.create_session(lambda: execution, command, encoding=None)
                    at_end.callback(channel.abort)
                    _send(channel, stdin.encode() if isinstance(stdin, str) else stdin)
                    lost = await execution.closed
            except TimeoutError:
                raise SshError(
                    Reason.TIMED_OUT, "timeout", f"a command on {self._target} has not ended after {timeout:g} s"
                ) from None
            except (asyncssh.Error, OSError) as error:
                raise self._lost(error) from error
            code = channel.get_returncode()
            # A dropped connection may look like the end of the command: it has an exit code only if it ended.
            if lost is not None or code is None:
                raise self._lost(lost)
            return Result(code if code >= 0 else 128 - code, execution.stdout.text(), execution.stderr.text())

    def _lost(self, why: Exception | None) -> SshError:
        code = type(why).__name__ if why else "no exit status"
        return SshError(
            Reason.CONNECTION_LOST, code, f"the connection to {self._target} was lost: {why or 'the host closed it'}"
        )


def _send(channel: asyncssh.SSHClientChannel[bytes], stdin: bytes) -> None:
    if not channel.is_closing():  # else it has ended without reading, which its exit code explains
        channel.write(stdin)
        channel.write_eof()


@asynccontextmanager
async def connect(target: Target, deadlines: Deadlines = Deadlines()) -> AsyncIterator[Host]:
    """Log in to `target`, once; the connection is closed at the end of the block.

    Raises:
        SshError: UNREACHABLE, LOGIN_REFUSED, HOST_KEY_CHANGED or HOST_KEY_UNKNOWN.
        ValueError: one of the keys is none (see `check_private_key`).
    """
    connection = await _open(target, deadlines)
    try:
        yield Host(target, connection)
    finally:
        connection.close()
        await connection.wait_closed()


@asynccontextmanager
async def connect_when_up(
    target: Target,
    *,
    until: float,
    deadlines: Deadlines = Deadlines(),
) -> AsyncIterator[Host]:
    """Log in to `target` the moment it lets us: it may still be booting, or may not have its keys yet.

    Args:
        until: when to give up, on the running loop's clock; it is tried once at least.

    Raises:
        SshError: HOST_KEY_CHANGED and HOST_KEY_UNKNOWN at once; UNREACHABLE or LOGIN_REFUSED, the last that was seen,
            once `until` has passed.
        ValueError: one of the keys is none (see `check_private_key`).
    """
    connection = await _open_when_up(target, until, deadlines)
    try:
        yield Host(target, connection)
    finally:
        connection.close()
        await connection.wait_closed()


_EAGER_FOR = 30.0  # most hosts open their port within 3 to 23 s of running
_EAGER_PERIOD = 0.25
_EAGER_CONNECT = 1.0  # a host that does not exist yet answers no SYN, and the next one is only sent after 1 s
_SLOWEST_PERIOD = 5.0


def period(waited: float, refused_logins: int) -> float:
    """How long after the begin of one attempt the next one begins, seconds.

    A closed port costs nothing and is knocked at often. A refused login is another matter: newer OpenSSH servers
    (PerSourcePenalties) shut out who is refused more than once in five seconds.

    Args:
        waited: seconds since the first attempt.
        refused_logins: how many were refused in a row.
    """
    if refused_logins:
        return min(2.0 ** min(refused_logins - 1, 8), _SLOWEST_PERIOD)
    if waited < _EAGER_FOR:
        return _EAGER_PERIOD
    return min(1.0 + (waited - _EAGER_FOR) / 15, _SLOWEST_PERIOD)


async def _open_when_up(target: Target, until: float, deadlines: Deadlines) -> asyncssh.SSHClientConnection:
    clock = asyncio.get_running_loop().time
    first = clock()
    refused_logins = 0
    while True:
        began = clock()
        try:
            return await _open(target, _this_time(deadlines, began - first, until - began))
        except SshError as error:
            if error.reason not in {Reason.UNREACHABLE, Reason.LOGIN_REFUSED}:
                raise
            refused_logins = refused_logins + 1 if error.reason is Reason.LOGIN_REFUSED else 0
            following = max(began + period(began - first, refused_logins), clock())
            if following >= until:
                raise SshError(
                    error.reason, error.code, f"{error.message} (the last answer in {clock() - first:.0f} s of trying)"
                ) from error
        await asyncio.sleep(following - clock())


def _this_time(deadlines: Deadlines, waited: float, left: float) -> Deadlines:
    """The deadlines of one attempt: impatient while the host may come up any moment, and within what is left."""
    connect = min(deadlines.connect, _EAGER_CONNECT) if waited < _EAGER_FOR else deadlines.connect
    left = max(left, _EAGER_CONNECT)
    return replace(deadlines, connect=min(connect, left), login=min(deadlines.login, left))


class _Doorkeeper(asyncssh.SSHClient):
    """Lets no key in that is not pinned, and remembers which one was shown."""

    def __init__(self) -> None:
        self.shown: str | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002 - the signature is asyncssh's
        self.shown = as_text(key)
        return False


async def _open(target: Target, deadlines: Deadlines) -> asyncssh.SSHClientConnection:
    if not target.host_keys:
        raise SshError(
            Reason.HOST_KEY_UNKNOWN, "no pinned key", f"nothing vouches for the host key of {target}: not connected"
        )
    trusted = [public_key(text) for text in target.host_keys]
    client_key = private_key(target.client_key)
    doorkeeper = _Doorkeeper()
    with ExitStack() as unless_connected:
        tcp = socket.socket(_family(target.address), socket.SOCK_STREAM)
        unless_connected.callback(tcp.close)
        await _connect_tcp(tcp, target, deadlines.connect)
        try:
            connection = await asyncssh.connect(
                target.address,
                target.port,
                sock=tcp,
                client_factory=lambda: doorkeeper,
                username=target.username,
                client_keys=[client_key],
                known_hosts=(trusted, [], []),
                config=None,
                agent_path=None,
                agent_forwarding=False,
                x11_forwarding=False,
                x509_trusted_certs=None,
                preferred_auth="publickey",
                password_auth=False,
                kbdint_auth=False,
                host_based_auth=False,
                gss_auth=False,
                gss_kex=False,
                compression_algs=["none"],
                login_timeout=deadlines.login,
                keepalive_interval=deadlines.keepalive,
                keepalive_count_max=deadlines.missed,
            )
        except (asyncssh.Error, OSError) as error:
            raise _refusal(target, error, doorkeeper.shown) from error
        unless_connected.pop_all()
    return connection


async def shown_keys(address: str, port: int, deadlines: Deadlines = Deadlines()) -> tuple[str, ...]:
    """The public keys that a host shows to whoever connects, OpenSSH format; nothing vouches for them.

    Raises:
        SshError: UNREACHABLE.
    """
    keys = []
    why: Exception | None = None
    for kind in _KEY_KINDS:
        try:
            async with asyncio.timeout(deadlines.connect + deadlines.login):
                key = await asyncssh.get_server_host_key(address, port, server_host_key_algs=kind, config=None)
        except TimeoutError:
            raise SshError(Reason.UNREACHABLE, "timeout", f"{address} port {port} shows no host key in time") from None
        except (asyncssh.Error, OSError) as error:  # a server that has none of that kind may also just hang up
            why = error
            continue
        if key is not None:
            keys.append(as_text(key))
    if why is not None and not keys:
        message = f"{address} port {port} shows no host key: {why}"
        raise SshError(Reason.UNREACHABLE, type(why).__name__, message) from why
    return tuple(keys)


_KEY_KINDS = (
    ["ssh-ed25519"],
    ["ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"],
    ["rsa-sha2-512", "rsa-sha2-256"],
)


async def _connect_tcp(tcp: socket.socket, target: Target, patience: float) -> None:
    tcp.setblocking(False)
    try:
        async with asyncio.timeout(patience):
            await asyncio.get_running_loop().sock_connect(tcp, (target.address, target.port))
    except TimeoutError:
        raise SshError(
            Reason.UNREACHABLE, "timeout", f"{target} did not take a connection within {patience:g} s"
        ) from None
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise SshError(Reason.UNREACHABLE, code, f"{target} cannot be reached: {error.strerror or error}") from error


def _refusal(target: Target, error: asyncssh.Error | OSError, shown: str | None) -> SshError:
    """What an error on the way from an open port to a login means."""
    code = type(error).__name__
    match error:
        case asyncssh.HostKeyNotVerifiable():
            changed = True
        case asyncssh.KeyExchangeFailed():
            changed = "host key" in str(error)  # it has no key of the pinned kind
        case _:
            changed = False
    if changed:
        return HostKeyChangedError(code, target, shown)
    if isinstance(error, asyncssh.PermissionDenied):
        return SshError(
            Reason.LOGIN_REFUSED,
            code,
            f"{target} does not accept the key: is it the private half of `key_name`, and is `username` the image's?",
        )
    return SshError(Reason.UNREACHABLE, code, f"{target} took a connection but no login: {error}")


def _family(address: str) -> socket.AddressFamily:
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        version = 4  # a name; EC2's own resolve to IPv4
    return socket.AF_INET6 if version == 6 else socket.AF_INET
