"""The boot of a pretend host as cloud-init would do it: keys, users, files, and the commands of the user data."""

import re
import time
from collections.abc import Sequence

import asyncssh

from flambed.lab.machine.machine import LOGIN_USERS, Machine
from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import execute
from flambed.lab.machine.streams import Null
from flambed.lab.machine.userdata import UserData

_INSTANCE = "/var/lib/cloud/instance"
_OUTPUT = "/var/log/cloud-init-output.log"
_KEYS = "/etc/ssh"
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


def first_boot(machine: Machine, data: UserData, raw: bytes | None, authorized_keys: Sequence[str]) -> None:
    """Do what comes before sshd starts on a new host: users, host keys and files."""
    if data.hostname:
        machine.hostname = data.hostname
    for user in LOGIN_USERS:
        machine.add_user(user, authorized_keys=(*authorized_keys, *data.authorized_keys))
    for name, keys in data.users:
        if _USER.fullmatch(name):
            machine.add_user(name, authorized_keys=keys)
        else:
            _warn(machine, f"users: {name!r} is no name for a user")
    for key in _host_keys(machine, data):
        kind = key.get_algorithm().removeprefix("ssh-").partition("-")[0]
        comment = f"root@{machine.hostname}".encode()
        key.set_comment(comment)
        path = f"{_KEYS}/ssh_host_{kind}_key"
        machine.files.write(path, key.export_private_key("openssh"), mode=0o600)
        machine.files.write(f"{path}.pub", key.export_public_key("openssh"))
    machine.files.write(f"{_INSTANCE}/user-data.txt", raw or b"", mode=0o600)
    for each in data.files:
        try:
            old = machine.files.read(each.path) if each.append and machine.files.find(each.path) else b""
            machine.files.write(each.path, old + each.content, mode=each.mode, owner=each.owner)
        except OSError as error:
            _warn(machine, f"write_files: {each.path}: {error.strerror}")
    for problem in data.problems:
        _warn(machine, problem)


def _warn(machine: Machine, problem: str) -> None:
    machine.console += f"cloud-init[700]: WARNING: {problem}\n"


def _host_keys(machine: Machine, data: UserData) -> list[asyncssh.SSHKey]:
    keys: list[asyncssh.SSHKey] = []
    for text in data.host_keys:
        try:
            keys.append(asyncssh.import_private_key(text))
        except asyncssh.KeyImportError as error:
            _warn(machine, f"ssh_keys: {error}")
    return keys or [asyncssh.generate_private_key("ssh-ed25519")]


def host_keys(machine: Machine) -> list[asyncssh.SSHKey]:
    """Return the host keys that lie in the host's /etc/ssh."""
    folder = machine.files.directory(_KEYS)
    names = [name for name in folder.names() if name.startswith("ssh_host_") and name.endswith("_key")]
    return [asyncssh.import_private_key(machine.files.read(f"{_KEYS}/{name}")) for name in names]


def print_host_keys(machine: Machine) -> None:
    """Put fingerprints and keys on the console, as cloud-init does after the first boot."""
    keys = host_keys(machine)
    comment = f"root@{machine.hostname}"
    stamp = time.strftime("<14>%b %e %H:%M:%S cloud-init: ", time.gmtime())
    lines = ["#" * 61, "-----BEGIN SSH HOST KEY FINGERPRINTS-----"]
    for key in keys:
        kind = key.get_algorithm().removeprefix("ssh-").upper()
        size = {"ED25519": 256, "RSA": 3072}.get(kind, 256)
        lines.append(f"{size} {key.get_fingerprint()} {comment} ({kind.partition('-')[0]})")
    lines += ["-----END SSH HOST KEY FINGERPRINTS-----", "#" * 61]
    machine.console += "".join(f"{stamp}{line}\n" for line in lines)
    machine.console += "-----BEGIN SSH HOST KEY KEYS-----\n"
    for key in keys:
        machine.console += " ".join(key.export_public_key("openssh").decode().split()[:2]) + f" {comment}\n"
    machine.console += "-----END SSH HOST KEY KEYS-----\n"


async def run_boothooks(machine: Machine, data: UserData) -> None:
    """Run the boothooks, one after the other and as root, then let SSH begin."""
    for number, script in enumerate(data.boothooks, 1):
        await _run(machine, f"{_INSTANCE}/boothooks/part-{number:03}", script)
    machine.ready_for_ssh.set()


async def run_commands(machine: Machine, data: UserData, *, first: bool) -> None:
    """Run bootcmd and, on the first boot, runcmd and the scripts, one after the other and as root."""
    if data.boot_commands:
        await _run(machine, f"{_INSTANCE}/scripts/bootcmd", data.boot_commands)
    if first:
        print_host_keys(machine)
        if data.run_commands:
            await _run(machine, f"{_INSTANCE}/scripts/runcmd", data.run_commands)
        for number, script in enumerate(data.scripts, 1):
            await _run(machine, f"{_INSTANCE}/scripts/part-{number:03}", script)
        machine.files.write(f"{_INSTANCE}/boot-finished", f"{time.time() - machine.booted_at:.2f}\n".encode())
    up = time.time() - machine.booted_at
    machine.console += f"[{up:12.6f}] cloud-init[700]: Cloud-init v. 24.4 finished. Up {up:.2f} seconds\n"
    machine.set_up.set()


async def _run(machine: Machine, path: str, script: str) -> None:
    machine.files.write(path, script.encode(), mode=0o700)
    process = machine.spawn(["cloud-init"], user="root", cwd="/")
    process.redirect(0, Null())
    process.redirect(1, machine.files.open(_OUTPUT, "a"))
    process.redirect(2, process.stream(1).share())

    async def main(process: Process) -> int:
        return await execute(process, [path])

    status = await process.start(main).wait()
    if status:
        _warn(machine, f"Failed to run {path}: exit status {status}")
