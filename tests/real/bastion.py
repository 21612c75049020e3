"""A bastion with the service on it: what its operator and its users do."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.real.machine import CHECKOUT, Machine
from tests.test_docs import blocks

PAGE = (CHECKOUT / "docs" / "operating.md").read_text()
DROP_INS = "/etc/systemd/system/flambed.service.d"
SETTINGS = "/etc/flambed/flambed.yaml"
USERS = ("alice", "bob", "carol", "dave")

APT_GET = """#!/bin/sh
# There is no network here, and what is to be installed is there: it only has to be what the page may ask for.
[ "$*" = "install --yes python3-venv make git" ] || { echo "apt-get: $*?" >&2; exit 1; }
python3 -m venv --help > /dev/null && make --version > /dev/null && git --version > /dev/null
"""

KNOCK = """
import collections, json, select, socket, sys, threading
told = collections.Counter()
def knock():
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                client.connect("/run/flambed/control.sock")
                client.sendall(b"GET /v1/clusters HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
                told[client.makefile("rb").readline().decode().strip()] += 1
        except OSError as error:
            told[repr(error)] += 1
threads = [threading.Thread(target=knock) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(told))
"""


def follow_the_page(machine: Machine) -> str:
    """Follow docs/operating.md from a bare machine to a running service, word by word; return what it printed."""
    [section] = re.findall(r"^## From a bare Debian to a running service\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
    machine.write("/usr/local/bin/apt-get", APT_GET, 0o755)
    return machine.sh("".join(blocks(section, "sh")))


class Bastion:
    """A machine with the service, a lab in the place of AWS, and users.

    Attributes:
        page: what the commands of the operator's page printed.
    """

    def __init__(self, machine: Machine, lab: Mapping[str, Any]) -> None:
        self.machine = machine
        self.lab = lab
        self.page = ""
        self._drop_ins: set[str] = set()

    # --- the operator ----------------------------------------------------------------------------------------------

    def drop_in(self, name: str, section: str, **settings: str | Sequence[str]) -> None:
        """Write a drop-in of the unit."""
        lines = [
            f"{key}={value}\n"
            for key, values in settings.items()
            for value in ([values] if isinstance(values, str) else values)
        ]
        self.machine.write(f"{DROP_INS}/{name}.conf", f"[{section}]\n{''.join(lines)}")

    def systemctl(self, *words: str, check: bool = True) -> int:
        """Run systemctl; return its exit code."""
        return self.machine.run("systemctl", *words, check=check).returncode

    @property
    def main_pid(self) -> int:
        """The service's process, as the machine numbers it."""
        return int(self.machine.show("MainPID"))

    @property
    def status(self) -> str:
        """The line with which the service tells systemd how it is."""
        return self.machine.show("StatusText")

    def kill(self, signal: str) -> None:
        """Send the service a signal."""
        self.machine.run("kill", f"-{signal}", str(self.main_pid))

    def restore(self) -> None:
        """Take back what a test changed: settings, drop-ins, clusters, faults."""
        self.machine.run("cp", "/usr/src/flambed/config/flambed.yaml", SETTINGS)
        self.machine.run("rm", "-f", f"{DROP_INS}/test.conf")
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "reset-failed", "flambed.socket", "flambed.service", check=False)
        self.systemctl("restart", "flambed.service")
        self.machine.run("curl", "-sS", "-X", "DELETE", f"{self.lab['endpoint']}/lab/faults")
        self.ctl("root", "down", "--all", "--yes")

    # --- its users -------------------------------------------------------------------------------------------------

    def command(self, user: str, *words: str) -> list[str]:
        """A command line of flambectl that a user runs at home."""
        home = "/root" if user == "root" else f"/home/{user}"
        become = () if user == "root" else ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
        return self.machine.command(*become, "env", "-C", home, f"HOME={home}", "flambectl", *words)

    def ctl(self, user: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run flambectl as a user."""
        done = subprocess.run(
            self.command(user, *words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def asking(self, user: str, *words: str) -> subprocess.Popen[str]:
        """Run flambectl as a user, beside the test."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.command(user, *words), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def file(self, user: str, name: str, *, creator: str, **changes: Any) -> str:
        """A cluster file of a user's, with their own copy of the key, which nobody else can read."""
        home = "/root" if user == "root" else f"/home/{user}"
        self.machine.sh(f"install -m 0600 -o {user} -g {user} {self.lab['key']} {home}/key")
        cluster = {
            "name": name,
            "creator": creator,
            "orchestrator_type": "t3.large",
            "factories_num": 1,
            "factories_type": "g4dn.xlarge",
            "orchestrator_timeout": -1,
            "factories_timeout": -1,
            "key_name": self.lab["key_name"],
            "key": f"{home}/key",
            "security_group": self.lab["security_group"],
            "subnet_id": self.lab["subnet_id"],
        } | changes
        path = f"{home}/{name}-of-{creator}.yaml"
        self.machine.write(path, json.dumps(cluster))
        return path

    def calls(self, action: str) -> list[dict[str, Any]]:
        """The calls of an action that the lab has had."""
        told = json.loads(self.machine.run("curl", "-sS", f"{self.lab['endpoint']}/lab/calls").stdout)
        return [call for call in told if call["action"] == action]

    def fault(self, order: Mapping[str, Any]) -> None:
        """Have the lab misbehave."""
        self.machine.run("curl", "-sS", "-f", "-d", json.dumps(order), f"{self.lab['endpoint']}/lab/faults")

    @contextmanager
    def knocking(self) -> Iterator[Counter[str]]:
        """Ask for the list without pause, over a new connection each time; yields what came of it, once it has ended."""
        told: Counter[str] = Counter()
        words = self.machine.command("python3", "-c", KNOCK)
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            try:
                yield told
            finally:
                told.update(json.loads(client.communicate("", timeout=120)[0]))
