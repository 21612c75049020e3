"""The pretend hosts answer SSH as real ones do, and fail as they are told to."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import asyncssh
import pytest
import yaml

from flambed.lab.hosts import HostFault, Hosts

# What the service runs on a host for each set-up command: kept there, attached to, and never run twice at once.
SET_UP = r"""
umask 077; d="$HOME/.flambed/setup/$1"; mkdir -p "$d" || exit 120
[ -e "$d/command" ] || { printf '%s' "$2" > "$d/command.$$" && mv "$d/command.$$" "$d/command"; }
setsid flock -o "$d/lock" sh -c '[ -e "$1/exit" ] && exit 0; sh "$1/command" </dev/null >"$1/output" 2>&1
  echo $? >"$1/exit.new"; mv "$1/exit.new" "$1/exit"' run "$d" </dev/null >/dev/null 2>&1 &
wait $!
code=$(cat "$d/exit") || exit 121
tail -c 65536 "$d/output"; exit "$code"
"""
LIMIT = 20  # seconds that anything may take
ADDRESS = "127.10.0.4"


@dataclass
class Net:
    """Some hosts, a key that they let in, and a client."""

    hosts: Hosts
    port: int
    key: asyncssh.SSHKey
    host_key: asyncssh.SSHKey
    poweroffs: asyncio.Queue[str]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def boot(self, name: str = "i-1", address: str = ADDRESS, **config: Any) -> None:
        """Boot a host with the known host key and `config` as its cloud-config."""
        pem = self.host_key.export_private_key("openssh").decode()
        document = {"ssh_deletekeys": True, "ssh_keys": {"ed25519_private": pem}, **config}
        await self.boot_with(f"#cloud-config\n{yaml.safe_dump(document)}".encode(), name, address)

    async def boot_with(self, user_data: bytes | None, name: str = "i-1", address: str = ADDRESS) -> None:
        """Boot a host with `user_data`."""
        keys = [self.key.export_public_key("openssh").decode()]
        await self.hosts.boot(name, address, authorized_keys=keys, user_data=user_data)

    async def connect(self, address: str = ADDRESS, **options: Any) -> asyncssh.SSHClientConnection:
        """Connect as ubuntu, trusting the known host key only."""
        known = f"[{address}]:{self.port} {self.host_key.export_public_key('openssh').decode()}"
        defaults: dict[str, Any] = {
            "username": "ubuntu",
            "client_keys": [self.key],
            "known_hosts": asyncssh.import_known_hosts(known),
            "config": None,
            "agent_path": None,
            "login_timeout": LIMIT,
        }
        connection = await asyncssh.connect(address, self.port, **{**defaults, **options})
        return await self.stack.enter_async_context(connection)

    async def run(self, command: str, **options: Any) -> asyncssh.SSHCompletedProcess:
        """Run a command over a connection of its own."""
        async with asyncio.timeout(LIMIT), await self.connect() as connection:
            result: asyncssh.SSHCompletedProcess = await connection.run(command, **options)
        return result

    def commands(self, text: str) -> list[dict[str, Any]]:
        """Return the log's entries of i-1 whose words, or script, are `text`."""
        log: list[dict[str, Any]] = self.hosts.view("i-1")["commands"]
        return [entry for entry in log if text in {entry["text"], entry["script"]}]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds of what the hosts show to the outside."""
        async with asyncio.timeout(LIMIT):
            while not condition():  # noqa: ASYNC110 - the outside is shown no events
                await asyncio.sleep(0.01)


@pytest.fixture
async def net(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Net]:
    """No host yet; afterwards no task, no listener and no bug is left."""
    poweroffs: asyncio.Queue[str] = asyncio.Queue()
    hosts = Hosts(on_poweroff=poweroffs.put_nowait, seed=1)
    port = await hosts.start()
    made = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(2)]
    net = Net(hosts, port, made[0], made[1], poweroffs)
    before = asyncio.all_tasks()
    async with net.stack:
        yield net
    await hosts.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - {asyncio.current_task()} <= before
    with socket.socket() as probe:
        assert probe.connect_ex((ADDRESS, port)) != 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- logging in ---


async def test_the_host_shows_the_key_of_its_user_data_and_lets_the_owner_in(net: Net) -> None:
    """Pinned host key, known user, known key: a command runs in the user's home."""
    await net.boot()
    result = await net.run("whoami; pwd; hostname")
    assert (result.stdout, result.exit_status) == ("ubuntu\n/home/ubuntu\nip-127-10-0-4\n", 0)


@pytest.mark.parametrize("user", ["ubuntu", "ec2-user", "admin"])
async def test_the_usual_users_may_log_in(net: Net, user: str) -> None:
    """Images differ in the name of their user; the lab takes them all."""
    await net.boot()
    async with await net.connect(username=user) as connection:
        assert (await connection.run("id -un")).stdout == f"{user}\n"


async def test_strangers_stay_outside(net: Net) -> None:
    """Neither an unknown key, nor an unknown user, nor root gets in."""
    await net.boot()
    with pytest.raises(asyncssh.PermissionDenied):
        await net.connect(client_keys=[asyncssh.generate_private_key("ssh-ed25519")])
    for user in ("nobody", "root"):
        with pytest.raises(asyncssh.PermissionDenied):
            await net.connect(username=user)


async def test_users_of_the_user_data_and_keys_added_later_count(net: Net) -> None:
    """authorized_keys is a file on the host like any other."""
    other = asyncssh.generate_private_key("ssh-ed25519")
    line = other.export_public_key("openssh").decode().strip()
    await net.boot(users=[{"name": "ann", "ssh_authorized_keys": [line]}])
    async with await net.connect(username="ann", client_keys=[other]) as connection:
        assert (await connection.run("whoami")).stdout == "ann\n"
    with pytest.raises(asyncssh.PermissionDenied):
        await net.connect(client_keys=[other])
    await net.run(f"echo '{line}' >> ~/.ssh/authorized_keys")
    await net.connect(client_keys=[other])


async def test_a_host_without_a_given_key_makes_one_and_shows_it_on_its_console(net: Net) -> None:
    """Fingerprint and key stand between cloud-init's own markers, after the boot has got that far."""
    await net.boot_with(None)
    async with await net.connect(known_hosts=None) as connection:
        await connection.run("cloud-init status --wait")
        key = connection.get_server_host_key()
    assert key is not None
    console = net.hosts.console("i-1")
    fingerprints = console.split("BEGIN SSH HOST KEY FINGERPRINTS")[1].split("END SSH HOST KEY FINGERPRINTS")[0]
    assert f"256 {key.get_fingerprint()} root@ip-127-10-0-4 (ED25519)" in fingerprints
    keys = console.split("BEGIN SSH HOST KEY KEYS-----\n")[1].split("-----END SSH HOST KEY KEYS")[0]
    assert keys == " ".join(key.export_public_key("openssh").decode().split()[:2]) + " root@ip-127-10-0-4\n"


async def test_a_terminal_gives_a_prompt(net: Net) -> None:
    """A person can type, correct a letter, see the answer and leave."""
    await net.boot()
    connection = await net.connect()
    process = await connection.create_process(term_type="xterm")
    await process.stdout.readuntil("$ ")
    process.stdin.write("echo hellp\x7fo $((40+2))\r")
    assert await process.stdout.readuntil("$ ") == (
        "echo hellp\b \bo 42\r\nhello 42\r\nubuntu@ip-127-10-0-4:~$ ".replace("o 42\r\nhello", "o $((40+2))\r\nhello")
    )
    process.stdin.write("sleep 60\r")
    await net.until(lambda: net.commands("sleep 60"))
    process.stdin.write("\x03")
    await process.stdout.readuntil("$ ")
    assert [login["user"] for login in net.hosts.view("i-1")["logins"] if login["end"] is None] == ["ubuntu"]
    process.stdin.write("if\recho $?; exit 7\r")
    assert (await asyncio.wait_for(process.wait(), LIMIT)).exit_status == 7


# --- commands ---


async def test_streams_and_exit_codes_are_kept_apart(net: Net) -> None:
    """Output, errors and status arrive each on its own; a death by a signal is told as such."""
    await net.boot()
    result = await net.run("echo out; echo err >&2; exit 41")
    assert (result.stdout, result.stderr, result.exit_status) == ("out\n", "err\n", 41)
    assert (await net.run("kill -TERM $$")).exit_signal is not None
    assert (await net.run("nosuchthing")).exit_status == 127


async def test_a_megabyte_goes_in_and_comes_out(net: Net) -> None:
    """Input is passed on with back-pressure and without loss, in both directions."""
    await net.boot()
    data = bytes(range(256)) * 4096
    result = await net.run("cat > big; cat big", input=data, encoding=None)
    assert result.stdout == data


async def test_output_is_streamed_as_it_comes(net: Net) -> None:
    """The first line is there before the command ends."""
    await net.boot()
    process = await (await net.connect()).create_process("echo first; read line; echo got $line")
    assert await process.stdout.readline() == "first\n"
    process.stdin.write("second\n")
    assert await process.stdout.readline() == "got second\n"


async def test_a_channel_stays_open_while_a_background_job_holds_it(net: Net) -> None:
    """As with sshd: a job that keeps the output keeps the client, one that was redirected does not."""
    await net.boot()
    held = await net.run("(sleep 0.3; echo late) & echo early")
    assert held.stdout == "early\nlate\n"
    free = await net.run("sleep 60 >/dev/null 2>&1 </dev/null & echo early")
    assert free.stdout == "early\n"
    assert [p["args"] for p in net.hosts.view("i-1")["processes"]] == ["sleep 60"]


async def test_a_command_outlives_its_connection_until_it_writes(net: Net) -> None:
    """Without a terminal nobody hangs up; SIGPIPE comes with the next output."""
    await net.boot()
    connection = await net.connect()
    await connection.create_process("sleep 0.2; touch quiet; echo; touch never")
    await net.until(lambda: net.commands("sleep 0.2"))
    connection.abort()
    await net.until(lambda: not net.hosts.view("i-1")["processes"])
    files = net.hosts.view("i-1")["files"]
    assert "/home/ubuntu/quiet" in files
    assert "/home/ubuntu/never" not in files


async def test_a_lost_terminal_hangs_up(net: Net) -> None:
    """With a terminal the command dies with the connection, unless it ignores that."""
    await net.boot()
    connection = await net.connect()
    await connection.create_process("nohup sleep 50 >/dev/null & sleep 60", term_type="xterm")
    await net.until(lambda: net.commands("sleep 60") and net.commands("sleep 50"))
    connection.abort()
    await net.until(lambda: [p["args"] for p in net.hosts.view("i-1")["processes"]] == ["sleep 50"])


async def test_a_set_up_command_runs_once_though_clients_come_and_go(net: Net) -> None:
    """A client that is cut off, one that attaches meanwhile and one that comes later see one run."""
    await net.boot()
    command = "sh -s -- key 'echo begun; sleep 0.4; echo done; exit 3'"
    first = await net.connect()
    cut_off = await first.create_process(command)
    cut_off.stdin.write(SET_UP)
    cut_off.stdin.write_eof()
    await net.until(lambda: net.commands("sleep 0.4"))
    attached = asyncio.create_task(net.run(command, input=SET_UP))
    first.abort()
    results = [await attached, await net.run(command, input=SET_UP)]
    assert [(result.stdout, result.exit_status) for result in results] == [("begun\ndone\n", 3)] * 2
    (run,) = net.commands("echo begun; sleep 0.4; echo done; exit 3")
    assert (run["kind"], run["code"]) == ("script", 3)
    assert run["end"] - run["start"] >= 0.4


async def test_many_hosts_answer_at_once(net: Net) -> None:
    """Each host has its own address, name and files, on the one port."""
    addresses = [f"127.10.1.{number}" for number in range(20)]
    for number, address in enumerate(addresses):
        await net.boot(f"i-{number}", address)

    async def name(address: str) -> str:
        async with await net.connect(address) as connection:
            result = await connection.run("sh -s -- k 'hostname'", input=SET_UP)
        return str(result.stdout)

    assert await asyncio.gather(*map(name, addresses)) == [f"ip-{a.replace('.', '-')}\n" for a in addresses]


# --- user data ---


async def test_the_first_boot_writes_files_and_runs_commands_in_the_hosts_own_shell(net: Net) -> None:
    """write_files come first, runcmd runs as root, its output is kept where cloud-init keeps it."""
    await net.boot(
        write_files=[{"path": "/opt/app/x", "content": "hello\n", "permissions": "0640"}, {"path": "/proc/1/x"}],
        runcmd=["cat /opt/app/x; whoami > /root/who", ["sh", "-c", "echo $0 > /root/arg", "a b"], "exit 4"],
    )
    result = await net.run("cloud-init status --wait >/dev/null; cat /root/who /root/arg; stat -c %a /opt/app/x")
    assert result.stdout == "root\na b\n640\n"
    assert net.hosts.view("i-1")["files"]["/var/log/cloud-init-output.log"] == "hello\n"
    assert "runcmd: exit status 4" in net.hosts.console("i-1")


async def test_a_stopped_host_keeps_what_it_had_and_boots_as_what_it_is(net: Net) -> None:
    """Files, host key and user data's work survive; processes and the boot id do not; first-boot work is not redone."""
    await net.boot(runcmd=["echo x >> /root/count"], bootcmd=["echo x >> /root/boots"])
    await net.run("cloud-init status --wait; touch mine; sleep 60 >/dev/null 2>&1 &")
    before = net.hosts.view("i-1")["boot_id"]
    connection = await net.connect()
    await net.hosts.halt("i-1", forget=False)
    await asyncio.wait_for(connection.wait_closed(), LIMIT)
    with pytest.raises(ConnectionRefusedError):
        await net.connect()
    assert net.hosts.view("i-1")["processes"] == []
    await net.boot()
    result = await net.run("cloud-init status --wait >/dev/null; ls; cat /root/count /root/boots; ps -e | wc -l")
    assert result.stdout == "mine\nx\nx\nx\n4\n"
    assert net.hosts.view("i-1")["boot_id"] != before


async def test_a_terminated_host_leaves_nothing(net: Net) -> None:
    """The same id would be a new machine."""
    await net.boot()
    await net.run("touch mine")
    await net.hosts.halt("i-1", forget=True)
    with pytest.raises(KeyError):
        net.hosts.view("i-1")
    await net.boot()
    assert (await net.run("ls")).stdout == ""


async def test_a_host_that_is_up_is_not_booted_again(net: Net) -> None:
    """Booting twice is the caller's mistake, and said to be."""
    await net.boot()
    with pytest.raises(RuntimeError, match="i-1 is up already"):
        await net.boot()


async def test_a_host_tells_when_it_switches_itself_off(net: Net) -> None:
    """Halting it is for whoever was told."""
    await net.boot()
    await net.run("sudo poweroff")
    assert await asyncio.wait_for(net.poweroffs.get(), LIMIT) == "i-1"


async def test_a_reboot_ends_connections_and_comes_back(net: Net) -> None:
    """The same files, another boot id."""
    await net.boot()
    connection = await net.connect()
    before = net.hosts.view("i-1")["boot_id"]
    await connection.run("touch mine; reboot")
    await asyncio.wait_for(connection.wait_closed(), LIMIT)
    await net.until(lambda: net.hosts.view("i-1")["boot_id"] != before)
    assert (await net.run("ls")).stdout == "mine\n"


async def test_activity_is_what_was_set(net: Net) -> None:
    """GPUs and load are the lab's to choose."""
    await net.boot()
    net.hosts.set_activity("i-1", load=2.5, gpus=[10, 20])
    result = await net.run("nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits; cat /proc/loadavg")
    assert str(result.stdout).splitlines()[:2] == ["10", "20"]
    assert str(result.stdout).splitlines()[2].startswith("2.50 ")


# --- faults ---


async def test_refuse_closes_the_port_and_leaves_connections(net: Net) -> None:
    """It holds before and after the boot, and ends when it is taken away."""
    net.hosts.set_fault("i-1", HostFault("refuse"))
    await net.boot()
    with pytest.raises(ConnectionRefusedError):
        await net.connect()
    net.hosts.set_fault("i-1", None)
    connection = await net.connect()
    net.hosts.set_fault("i-1", HostFault("refuse"))
    assert (await connection.run("echo on")).stdout == "on\n"
    with pytest.raises(ConnectionRefusedError):
        await net.connect()


async def test_mute_accepts_and_says_nothing(net: Net) -> None:
    """A client waits for a banner that never comes."""
    await net.boot()
    net.hosts.set_fault("i-1", HostFault("mute"))
    reader, writer = await asyncio.open_connection(ADDRESS, net.port)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.2)
    writer.close()
    net.hosts.set_fault("i-1", None)
    assert (await net.run("echo on")).stdout == "on\n"


async def test_wrong_key_is_noticed_by_a_client_that_looks(net: Net) -> None:
    """A pinned key protects; the right one is back afterwards."""
    await net.boot()
    net.hosts.set_fault("i-1", HostFault("wrong_key"))
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await net.connect()
    net.hosts.set_fault("i-1", None)
    await net.connect()


async def test_deny_lasts_as_long_as_it_is_told(net: Net) -> None:
    """Logins fail until so long after the boot, or for ever."""
    net.hosts.set_fault("i-1", HostFault("deny", seconds=0.5))
    await net.boot()
    with pytest.raises(asyncssh.PermissionDenied):
        await net.connect()
    await asyncio.sleep(0.5)
    await net.connect()
    net.hosts.set_fault("i-1", HostFault("deny"))
    with pytest.raises(asyncssh.PermissionDenied):
        await net.connect()


async def test_drop_cuts_the_connection_and_the_command_goes_on(net: Net) -> None:
    """The client sees no exit status; the work is done nevertheless, and the next connection holds."""
    await net.boot()
    net.hosts.set_fault("i-1", HostFault("drop", pattern="touch", seconds=0.1, count=1))
    result = await net.run("sleep 0.3; touch mine")
    assert result.exit_status is None
    await net.until(lambda: "/home/ubuntu/mine" in net.hosts.view("i-1")["files"])
    assert (await net.run("sleep 0.2; touch yours")).exit_status == 0


async def test_hang_silences_old_and_new_connections_until_it_ends(net: Net) -> None:
    """Keepalives go unanswered, output is held back, and all of it comes when the host recovers."""
    await net.boot()
    connection = await net.connect()
    process = await connection.create_process("sleep 0.1; echo late")
    impatient = await net.connect(keepalive_interval=0.1, keepalive_count_max=2)
    net.hosts.set_fault("i-1", HostFault("hang"))
    await asyncio.wait_for(impatient.wait_closed(), LIMIT)
    with pytest.raises((asyncssh.ConnectionLost, TimeoutError)):
        await net.connect(login_timeout=0.2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.stdout.readline(), 0.2)
    net.hosts.set_fault("i-1", None)
    assert await asyncio.wait_for(process.stdout.readline(), LIMIT) == "late\n"


async def test_fail_makes_matching_commands_fail_unrun_and_counts(net: Net) -> None:
    """Simple commands and scripts alike, as often as told, and nothing that only mentions the pattern."""
    await net.boot()
    net.hosts.set_fault("i-1", HostFault("fail", pattern="touch x", code=9, count=2))
    result = await net.run("echo touch x; touch x; echo $?; sudo touch x; echo $?; ls; touch x; ls")
    assert result.stdout == "touch x\n9\n9\nx\n"
    net.hosts.set_fault("i-1", HostFault("fail", pattern="for i in", code=8))
    result = await net.run("sh -s -- k 'for i in 1 2; do touch $i; done'", input=SET_UP)
    assert result.exit_status == 8
    assert "/home/ubuntu/1" not in net.hosts.view("i-1")["files"]


def test_a_fault_that_there_is_not_is_refused() -> None:
    """A misspelt kind or a broken pattern is told at once, with what there is."""
    with pytest.raises(ValueError, match="refuse, mute, wrong_key"):
        HostFault("refsue")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no regular expression"):
        HostFault("fail", pattern="(")


# --- the port ---


async def test_two_labs_choose_different_ports_and_a_taken_one_is_refused() -> None:
    """The port is kept for as long as the hosts are there."""
    labs = [Hosts(on_poweroff=lambda _: None, seed=1) for _ in range(3)]
    ports = [await labs[0].start(), await labs[1].start()]
    assert ports[0] != ports[1]
    with pytest.raises(OSError, match="in use"):
        await labs[2].start(ports[0])
    await labs[0].close()
    assert await labs[2].start(ports[0]) == ports[0]
    await labs[1].close()
    await labs[2].close()
