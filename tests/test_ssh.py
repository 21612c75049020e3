"""Connecting to hosts: trust, deadlines, and what becomes of errors."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import pytest

from flambed.console import host_key_of_console
from flambed.errors import Reason
from flambed.hostkey import fingerprint
from flambed.ssh import (
    Deadlines,
    HostKeyChangedError,
    SshError,
    Target,
    check_private_key,
    connect,
    connect_when_up,
    new_host_key,
    public_key_of,
    shown_keys,
)
from flambed.ssh.hosts import OUTPUT_LIMIT, period
from tests.sshserver import HOST_PUBLIC, LOGIN_KEY, LOGIN_PUBLIC, Gate, SshHost, ssh_host, wire_to

BRISK = Deadlines(connect=0.3, login=0.5, keepalive=0.1, missed=2)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SshHost]:
    """A host on loopback that is up."""
    async with ssh_host(tmp_path) as host:
        yield host


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate on the host."""
    gate = Gate(tmp_path)
    yield gate
    gate.close()


@contextmanager
def closed_port() -> Iterator[socket.socket]:
    """A loopback port that refuses connections until somebody listens on it."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved


def target(port: int) -> Target:
    """A host at that loopback port whose key is of no importance."""
    return Target(address="127.0.0.1", port=port, username="ubuntu", host_keys=(LOGIN_PUBLIC,), client_key=LOGIN_KEY)


def soon(seconds: float) -> float:
    """That many seconds from now, on the loop's clock."""
    return asyncio.get_running_loop().time() + seconds


async def failure(to: Target, deadlines: Deadlines = BRISK) -> SshError:
    """How one attempt to connect fails."""
    with pytest.raises(SshError) as caught:
        async with connect(to, deadlines):
            pass
    return caught.value


# --- one connection ----------------------------------------------------------------------------------------------


async def test_a_command_gets_its_stdin_and_gives_its_outputs_and_code(host: SshHost) -> None:
    """Both outputs apart, and the exit code as it is."""
    async with connect(host.target()) as shell:
        result = await shell.run("cat; echo problem >&2; exit 5", stdin="héllo\n", timeout=10)
    assert (result.code, result.stdout, result.stderr) == (5, "héllo\n", "problem\n")


async def test_a_command_that_reads_nothing_is_not_disturbed_by_a_large_stdin(host: SshHost) -> None:
    """Its end counts, not what it left unread."""
    async with connect(host.target()) as shell:
        result = await shell.run("exit 3", stdin=b"x" * 300_000, timeout=10)
    assert result.code == 3


async def test_a_command_that_a_signal_ended_has_the_shells_code_for_it(host: SshHost) -> None:
    """128 and the signal's number."""
    async with connect(host.target()) as shell:
        assert (await shell.run("kill -TERM $$", timeout=10)).code == 128 + 15


async def test_of_much_output_the_end_is_kept_and_the_loss_is_told(host: SshHost) -> None:
    """Memory is bounded whatever a host sends."""
    size = 3 * OUTPUT_LIMIT
    async with connect(host.target()) as shell:
        result = await shell.run(f"head -c {size} /dev/zero | tr '\\0' x; echo end", timeout=30)
    notice, _, kept = result.stdout.partition("\n")
    assert notice == f"[flambed: the first {size + 4 - OUTPUT_LIMIT} bytes are not kept]"
    assert len(kept) == OUTPUT_LIMIT
    assert kept.endswith("xend\n")


async def test_commands_of_one_connection_run_at_the_same_time(host: SshHost, gate: Gate) -> None:
    """One does not wait for the other."""
    async with connect(host.target()) as shell, asyncio.TaskGroup() as group:
        held = group.create_task(shell.run(gate.command, timeout=20))
        await asyncio.to_thread(gate.wait)
        assert (await shell.run("echo quick", timeout=10)).stdout == "quick\n"
        assert not held.done()
        gate.let_go()


async def test_a_command_over_its_time_is_timed_out_and_the_connection_stays(host: SshHost) -> None:
    """The message tells the time it had."""
    async with connect(host.target()) as shell:
        with pytest.raises(SshError, match=r"not ended after 0\.2 s") as caught:
            await shell.run("sleep 60", timeout=0.2)
        assert caught.value.reason is Reason.TIMED_OUT
        assert (await shell.run("echo still here", timeout=10)).stdout == "still here\n"


async def test_a_connection_that_drops_in_the_middle_of_a_command_is_lost(host: SshHost, gate: Gate) -> None:
    """A command without an exit code has not ended well."""
    async with wire_to(host) as wire, connect(host.target(port=wire.port)) as shell:
        running = asyncio.create_task(shell.run(gate.command, timeout=20))
        await asyncio.to_thread(gate.wait)
        wire.cut()
        with pytest.raises(SshError) as caught:
            await running
        assert caught.value.reason is Reason.CONNECTION_LOST
        with pytest.raises(SshError) as caught:
            await shell.run("true", timeout=10)
        assert caught.value.reason is Reason.CONNECTION_LOST


async def test_a_host_that_falls_silent_is_lost_by_keepalive(host: SshHost, gate: Gate) -> None:
    """A hanging host is noticed while a command runs, long before its time is over."""
    async with wire_to(host) as wire, connect(host.target(port=wire.port), BRISK) as shell:
        running = asyncio.create_task(shell.run(gate.command, timeout=60))
        await asyncio.to_thread(gate.wait)
        wire.freeze()
        async with asyncio.timeout(10):
            with pytest.raises(SshError, match="keepalive") as caught:
                await running
    assert caught.value.reason is Reason.CONNECTION_LOST


async def test_a_cancelled_command_leaves_no_connection(host: SshHost, gate: Gate) -> None:
    """Cancellation gets through, and the host sees the connection closed."""

    async def work() -> None:
        async with connect(host.target()) as shell:
            await shell.run(gate.command, timeout=60)

    task = asyncio.create_task(work())
    await asyncio.to_thread(gate.wait)
    assert host.open == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        await host.all_closed.wait()


async def test_a_cancelled_login_leaves_no_connection() -> None:
    """A mute server sees the connection closed as well."""
    arrived, left = asyncio.Event(), asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        task = asyncio.create_task(failure(target(server.sockets[0].getsockname()[1]), Deadlines()))
        async with asyncio.timeout(10):
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await left.wait()


# --- what goes wrong on the way ----------------------------------------------------------------------------------


async def test_a_closed_port_is_unreachable_at_once() -> None:
    """Refused: the machine is there, its SSH is not."""
    with closed_port() as port:
        error = await failure(target(port.getsockname()[1]))
    assert (error.reason, error.code) == (Reason.UNREACHABLE, "ECONNREFUSED")


async def test_a_port_that_swallows_connections_is_given_up_after_the_connect_deadline() -> None:
    """No answer at all, as of a host that does not exist yet: here a full backlog."""
    with closed_port() as port, socket.socket() as first, socket.socket() as second:
        port.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(port.getsockname())
        error = await failure(target(port.getsockname()[1]))
    assert (error.reason, error.code) == (Reason.UNREACHABLE, "timeout")
    assert "within 0.3 s" in error.message


async def test_a_mute_port_is_given_up_after_the_login_deadline(host: SshHost) -> None:
    """It took the connection and says nothing."""
    async with wire_to(host) as wire:
        wire.freeze()
        error = await failure(host.target(port=wire.port))
    assert (error.reason, error.code) == (Reason.UNREACHABLE, "ConnectionLost")
    assert "Login timeout" in error.message


async def test_an_address_that_does_not_resolve_is_unreachable(host: SshHost) -> None:
    """Names under .invalid never resolve."""
    error = await failure(host.target(address="host.invalid"))
    assert error.reason is Reason.UNREACHABLE


async def test_another_host_key_is_never_accepted(tmp_path: Path, host: SshHost) -> None:
    """Neither another key of the same kind nor one of another kind; no login is tried."""
    changed = await failure(host.target(host_keys=(new_host_key()[1],)))
    rsa = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    other_kind = await failure(host.target(host_keys=(rsa,)))
    assert changed.reason is other_kind.reason is Reason.HOST_KEY_CHANGED
    assert "another host key than the pinned one" in changed.message
    assert fingerprint(HOST_PUBLIC) in changed.message, "what it shows"
    assert isinstance(changed, HostKeyChangedError)
    assert changed.shown == HOST_PUBLIC


async def test_what_a_host_shows_can_be_told_to_a_person(host: SshHost) -> None:
    """Without a login, and of every kind that it has."""
    assert await shown_keys("127.0.0.1", host.port) == (HOST_PUBLIC,)
    assert host.commands == []


async def test_a_host_that_shows_nothing_is_unreachable() -> None:
    """Nothing listens there."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(SshError) as caught:
            await shown_keys("127.0.0.1", closed.getsockname()[1])
    assert caught.value.reason is Reason.UNREACHABLE


async def test_a_connection_knows_which_key_the_host_has_shown(host: SshHost) -> None:
    """Of the two that it may."""
    async with connect(host.target(host_keys=(new_host_key()[1], HOST_PUBLIC))) as shell:
        assert shell.host_key == HOST_PUBLIC


async def test_any_of_several_pinned_keys_will_do(host: SshHost) -> None:
    """A key that is being replaced is pinned beside its successor."""
    both = (new_host_key()[1], *host.target().host_keys)
    async with connect(host.target(host_keys=both)) as shell:
        assert (await shell.run("true", timeout=10)).code == 0


async def test_without_a_pinned_key_nothing_is_connected_to(host: SshHost) -> None:
    """Unknown is not trusted."""
    error = await failure(host.target(host_keys=()))
    assert error.reason is Reason.HOST_KEY_UNKNOWN
    assert host.attempts == 0


async def test_a_key_that_the_host_does_not_know_is_a_refused_login(host: SshHost) -> None:
    """The message says which settings to look at."""
    error = await failure(host.target(client_key=new_host_key()[0]))
    assert error.reason is Reason.LOGIN_REFUSED
    assert "key_name" in error.message
    assert "username" in error.message


async def test_the_keys_and_settings_of_the_services_user_take_no_part(
    host: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key in ~/.ssh that would open the host, and a configuration that would shut us out, are not looked at."""
    folder = tmp_path / ".ssh"
    folder.mkdir()
    (folder / "id_ed25519").write_text(LOGIN_KEY)
    (folder / "config").write_text("Host *\n  HostKeyAlgorithms rsa-sha2-512\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    async with connect(host.target()) as shell:
        assert (await shell.run("true", timeout=10)).code == 0
    assert (await failure(host.target(client_key=new_host_key()[0]))).reason is Reason.LOGIN_REFUSED


def test_a_target_never_shows_its_private_key() -> None:
    """Neither as text nor for debugging."""
    shown = f"{target(22)} {target(22)!r}"
    assert "PRIVATE" not in shown
    assert "ubuntu@127.0.0.1 port 22" in shown


# --- a host that comes up ----------------------------------------------------------------------------------------


async def test_a_host_is_connected_to_as_soon_as_its_port_opens(tmp_path: Path) -> None:
    """Refused first, and then within two knocks."""
    loop = asyncio.get_running_loop()
    with closed_port() as port:
        to = target(port.getsockname()[1])

        async def reach() -> float:
            async with connect_when_up(to_host, until=soon(20)):
                return loop.time()

        to_host = Target(
            address=to.address, port=to.port, username="ubuntu", host_keys=SshHost(tmp_path).target().host_keys,
            client_key=LOGIN_KEY,
        )  # fmt: skip
        reaching = asyncio.create_task(reach())
        assert (await failure(to)).code == "ECONNREFUSED"
        async with ssh_host(tmp_path, on=port):
            opened = loop.time()
            assert await reaching - opened < 0.75


async def test_a_refused_login_is_tried_again_until_the_host_has_its_keys(host: SshHost) -> None:
    """cloud-init writes them after the port is open."""
    host.lets_in = False
    reaching = asyncio.create_task(_reached(host.target()))
    await host.refused.wait()
    host.lets_in = True
    assert await reaching


async def test_a_changed_host_key_is_final_at_once(host: SshHost) -> None:
    """Waiting does not make it right."""
    with pytest.raises(SshError) as caught:
        async with connect_when_up(host.target(host_keys=(new_host_key()[1],)), until=soon(60)):
            pass
    assert caught.value.reason is Reason.HOST_KEY_CHANGED
    assert host.attempts == 1


@pytest.mark.parametrize("lets_in", [True, False], ids=["closed port", "refused login"])
async def test_at_the_deadline_the_last_answer_is_told(host: SshHost, lets_in: bool) -> None:
    """What it was that kept us out, and for how long it was tried."""
    host.lets_in = lets_in
    with closed_port() as port:
        to = host.target(port=port.getsockname()[1]) if lets_in else host.target()
        with pytest.raises(SshError, match="of trying") as caught:
            async with connect_when_up(to, until=soon(1.0)):
                pass
    assert caught.value.reason is (Reason.UNREACHABLE if lets_in else Reason.LOGIN_REFUSED)


async def test_a_mute_host_does_not_hold_us_beyond_the_deadline(host: SshHost) -> None:
    """An attempt gets no more time than there is."""
    async with wire_to(host) as wire:
        wire.freeze()
        async with asyncio.timeout(8):
            with pytest.raises(SshError) as caught:
                async with connect_when_up(host.target(port=wire.port), until=soon(0.5)):
                    pass
    assert caught.value.reason is Reason.UNREACHABLE


async def test_waiting_for_a_host_can_be_cancelled(host: SshHost) -> None:
    """And leaves no connection."""
    host.lets_in = False
    task = asyncio.create_task(_reached(host.target()))
    await host.refused.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        await host.all_closed.wait()


def test_a_closed_port_is_knocked_at_often_at_first_and_seldom_later() -> None:
    """Four times a second for half a minute, in the end once in five seconds."""
    assert [period(waited, 0) for waited in (0, 29.9, 30, 60, 90, 3600)] == [0.25, 0.25, 1.0, 3.0, 5.0, 5.0]


def test_refused_logins_are_never_repeated_often() -> None:
    """OpenSSH shuts out who fails too often, however young the host is."""
    assert [period(0.0, refused) for refused in (1, 2, 3, 4, 2000)] == [1.0, 2.0, 4.0, 5.0, 5.0]


async def _reached(to: Target) -> bool:
    async with connect_when_up(to, until=soon(20)) as shell:
        return (await shell.run("true", timeout=10)).code == 0


# --- keys --------------------------------------------------------------------------------------------------------


def test_a_new_host_key_is_an_ed25519_pair_without_a_comment() -> None:
    """Both halves in OpenSSH format, and another one each time."""
    private, public = new_host_key()
    assert private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert public.startswith("ssh-ed25519 AAAA")
    assert len(public.split()) == 2
    assert public_key_of(private) == public
    assert new_host_key()[1] != public


@pytest.mark.parametrize("form", ["openssh", "pkcs1-pem", "pkcs8-pem"])
def test_the_formats_in_which_people_have_keys_are_accepted(form: str) -> None:
    """EC2 hands out PEM; editors add blank lines and carriage returns."""
    text = asyncssh.generate_private_key("ssh-rsa", key_size=2048).export_private_key(form).decode()
    for variant in (text, f"\n{text}\n\n", text.replace("\n", "\r\n")):
        check_private_key(variant)
    assert public_key_of(text).startswith("ssh-rsa AAAA")


def _bad_keys() -> dict[str, tuple[str, str]]:
    key = asyncssh.generate_private_key("ssh-ed25519")
    private = key.export_private_key().decode()
    return {
        "encrypted": (key.export_private_key("pkcs8-pem", passphrase="open sesame").decode(), "with a passphrase"),
        "public": (key.export_public_key().decode(), "is a public key"),
        "public in PEM": (key.export_public_key("pkcs8-pem").decode(), "is a public key"),
        "public in RFC 4716": (key.export_public_key("rfc4716").decode(), "is a public key"),
        "PuTTY": ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "PuTTY"),
        "empty": (" \n", "is empty"),
        "half": (private[: len(private) // 2], "is damaged"),
        "a typo": (private.replace("\nb3", "\n", 1), "is damaged"),
        "something else": ("creator: user@company.com\n", "is no private key"),
    }


@pytest.mark.parametrize("case", _bad_keys())
def test_what_is_wrong_with_a_key_is_said_without_quoting_it(case: str) -> None:
    """Each mistake has words of its own; no part of the key is shown."""
    text, words = _bad_keys()[case]
    with pytest.raises(ValueError, match=words) as caught:
        check_private_key(text)
    assert not any(line in str(caught.value) for line in text.splitlines() if len(line) > 30)


# --- the console -------------------------------------------------------------------------------------------------

BLOCK = """\
[   14.120000] cloud-init[512]: -----BEGIN SSH HOST KEY KEYS-----\r
[   14.120001] cloud-init[512]: ecdsa-sha2-nistp256 AAAAE2VjZHNh{0}= root@ip-10-0-0-1\r
[   14.120002] cloud-init[512]: ssh-ed25519 AAAAC3NzaC1lZDI1{0} root@ip-10-0-0-1\r
[   14.120003] cloud-init[512]: -----END SSH HOST KEY KEYS-----\r
"""


def test_the_ed25519_key_is_read_off_the_console() -> None:
    """Whatever marks the lines carry."""
    assert host_key_of_console(f"booting\n{BLOCK.format('x')}login:") == "ssh-ed25519 AAAAC3NzaC1lZDI1x"


def test_without_an_ed25519_key_the_first_key_is_taken() -> None:
    """Some images make no such key."""
    lines = [line for line in BLOCK.format("x").splitlines() if "ed25519" not in line]
    assert host_key_of_console("\n".join(lines)) == "ecdsa-sha2-nistp256 AAAAE2VjZHNhx="


def test_the_last_boot_on_the_console_counts() -> None:
    """Its keys may be new, and a block that is still being printed does not count."""
    console = BLOCK.format("old") + BLOCK.format("new") + BLOCK.format("half").partition("ssh-ed25519")[0]
    assert host_key_of_console(console) == "ssh-ed25519 AAAAC3NzaC1lZDI1new"


@pytest.mark.parametrize(
    "console", ["", "booting\n", "ssh-ed25519 AAAAC3NzaC1lZDI1x\n", BLOCK.partition("-----END")[0]]
)
def test_without_a_complete_block_the_console_tells_no_key(console: str) -> None:
    """Fingerprints alone, or a boot that is not over, vouch for nothing."""
    assert host_key_of_console(console) is None
