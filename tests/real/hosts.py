"""Real hosts: OpenSSH's sshd in a network, a PID, a mount and a UTS namespace each, reached over a veth pair.

Each has its own /etc/ssh, /root, /home/ubuntu, /run and accounts; what it runs ends with it. The addresses are of
198.18.0.0/15, which is set aside for tests, and no packet leaves this machine.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from flambed.ssh import Target, new_host_key
from tests.parts import real_part
from tests.sshserver import eventually

LOGIN_KEY, LOGIN_PUBLIC = new_host_key()
BOOTSTRAP, BOOTSTRAP_PUBLIC = new_host_key()
KEY_FILE: Final = "ssh_host_ed25519_key"

_numbers = itertools.count()

_CONFIG: Final = """\
HostKey /etc/ssh/ssh_host_ed25519_key
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
LogLevel VERBOSE
"""
_BOOT: Final = """\
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 755 /run/sshd
mount --bind "$1/ssh" /etc/ssh
mount --bind "$1/root" /root
for file in passwd group shadow; do mount --bind "$1/$file" "/etc/$file"; done
mount -t tmpfs -o mode=755 tmpfs /home && mkdir /home/ubuntu && cp -r /root/.ssh /home/ubuntu/ &&
  chown -R ubuntu /home/ubuntu
hostname "$2"
read -r line <"$1/power"
exec "$3" -D -e
"""


@dataclass
class RealHost:
    """One host. It is up as soon as its sshd is (`start_sshd`); `cut` and `mend` take its link away and give it back."""

    folder: Path
    name: str
    near: str
    address: str
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def target(self, *host_keys: str, username: str = "root") -> Target:
        """Return how to log in, with these pinned keys, by default the one of the user data."""
        return Target(
            address=self.address,
            username=username,
            host_keys=host_keys or (BOOTSTRAP_PUBLIC,),
            client_key=LOGIN_KEY,
        )

    def path(self, name: str) -> Path:
        """Return a file in root's home on the host."""
        return self.folder / "root" / name

    @property
    def key(self) -> str:
        """The public half of the key in its /etc/ssh."""
        text = (self.folder / "ssh" / f"{KEY_FILE}.pub").read_text()
        return " ".join(text.split()[:2])

    def boot(self) -> None:
        """Plug it in, without an sshd yet."""
        for words in (
            ["netns", "add", self.name],
            ["link", "add", self.near, "type", "veth", "peer", "name", "eth0", "netns", self.name],
            ["address", "add", f"{_gateway(self.address)}/30", "dev", self.near],
            ["link", "set", self.near, "up"],
            ["-n", self.name, "address", "add", f"{self.address}/30", "dev", "eth0"],
            ["-n", self.name, "link", "set", "eth0", "up"],
            ["-n", self.name, "link", "set", "lo", "up"],
        ):
            _ip(*words)
        spaces = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--uts"]
        script = ["sh", "-euc", _BOOT, "boot", str(self.folder), self.name, real_part("sshd", "openssh-server")]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *spaces, *script], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start_sshd(self) -> None:
        """Let its sshd begin, and return when it listens."""
        (self.folder / "power").write_text("on\n")  # a pipe: the boot waits for it
        eventually(lambda: "Server listening on" in self.log(), f"sshd of {self.name} listens: {self.log()}")

    def log(self) -> str:
        """Return what its sshd has said."""
        return (self.folder / "log").read_text()

    def cut(self) -> None:
        """Take its link away."""
        _ip("link", "set", self.near, "down")

    def mend(self) -> None:
        """Give it back."""
        _ip("link", "set", self.near, "up")

    def change_key(self) -> str:
        """Give it another host key, as a stranger in its place would have; return the public half."""
        private, public = new_host_key()
        (self.folder / "ssh" / KEY_FILE).write_text(private)
        (self.folder / "ssh" / f"{KEY_FILE}.pub").write_text(public + "\n")
        return public

    def end(self) -> None:
        """Take it away with all that runs on it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
        _ip("netns", "delete", self.name)  # and the veth pair with it


def _gateway(address: str) -> str:
    head, _, last = address.rpartition(".")
    return f"{head}.{int(last) - 1}"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


@contextmanager
def real_host(folder: Path, *, sshd: bool = True) -> Iterator[RealHost]:
    """A host with the key of its user data; without `sshd` that is to be started by the test."""
    number = next(_numbers)
    name = f"fb{os.getpid()}-{number}"
    host = RealHost(folder / name, name, name, f"198.18.{os.getpid() % 256}.{4 * (number % 64) + 2}")
    _furnish(host.folder)
    try:
        host.boot()
        if sshd:
            host.start_sshd()
        yield host
    finally:
        host.end()


def _furnish(folder: Path) -> None:
    for name in ("ssh", "root/.ssh"):
        (folder / name).mkdir(parents=True, mode=0o700)
    os.mkfifo(folder / "power")
    (folder / "ssh" / "sshd_config").write_text(_CONFIG)
    key = folder / "ssh" / KEY_FILE
    key.touch(mode=0o600)
    key.write_text(BOOTSTRAP)
    (folder / "ssh" / f"{KEY_FILE}.pub").write_text(BOOTSTRAP_PUBLIC + "\n")
    (folder / "root" / ".ssh" / "authorized_keys").write_text(LOGIN_PUBLIC + "\n")
    accounts = {
        "passwd": "root:x:0:0:root:/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
        "ubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n",
        "group": "root:x:0:\nnogroup:x:65534:\nubuntu:x:1000:\n",
        "shadow": "root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\nubuntu:*:19000:0:99999:7:::\n",
    }
    for name, text in accounts.items():
        (folder / name).write_text(text)
