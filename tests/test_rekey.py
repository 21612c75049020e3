"""The script that gives a host a key of its own, under the shells that hosts have, and what the service makes of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from flambed.ssh import new_host_key, public_key_of
from flambed.steps.rekey import REKEY
from tests.parts import real_part

PROGRAMS = {
    "sshd": 'echo "sshd $*" >>"$LOG"; exit "${SSHD_CODE:-0}"',
    "systemctl": 'echo "systemctl $*" >>"$LOG"; [ "$1$3" != --quietssh ] || exit "${SSH_UNIT:-0}"',
    "sync": 'echo "sync $*" >>"$LOG"',
}


class Machine:
    """The files of sshd in a folder, and one shell that is `sh` there."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.folder = folder / "etc ssh"
        self.folder.mkdir()
        self.file = self.folder / "ssh_host_ed25519_key"
        self.made = self.folder / "ssh_host_ed25519_key.flambed"
        self.console = folder / "console"
        self.log = folder / "log"
        self.log.touch()
        self.programs = folder / "bin"
        self.programs.mkdir()
        (self.programs / "sh").symlink_to(real_part(shell, shell))
        for name, text in PROGRAMS.items():
            self.program(name, text)
        private, self.bootstrap = new_host_key()
        self.file.write_text(private)
        self.file.chmod(0o600)
        Path(f"{self.file}.pub").write_text(self.bootstrap + "\n")

    def program(self, name: str, text: str) -> None:
        """Put a program in the place of the machine's."""
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, step: str, argument: str, **environ: str) -> tuple[int, str]:
        """Run a step: (exit code, stdout)."""
        env = {"PATH": f"{self.programs}:{os.environ['PATH']}", "LOG": str(self.log), **environ}
        command = [str(self.programs / "sh"), "-c", REKEY, "flambed", step, str(self.file), argument]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
        return done.returncode, done.stdout

    def make(self) -> str:
        """Make the key; return its public half."""
        code, printed = self.run("make", self.bootstrap)
        assert code == 0
        return printed.removeprefix("flambed-key ").strip()

    def use(self, **environ: str) -> int:
        """Put it in its place; return the exit code."""
        return self.run("use", str(self.console), **environ)[0]


@pytest.fixture(params=["dash", "bash", "busybox", "sh"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A machine with each of the shells, whose sshd has the key of its user data."""
    real_part("ssh-keygen", "openssh-client")
    return Machine(tmp_path, request.param)


def test_a_key_is_made_beside_the_one_in_use_and_then_put_in_its_place(machine: Machine) -> None:
    """Nobody but root can read it; its public half is told before sshd has it."""
    made = machine.make()
    assert public_key_of(machine.file.read_text()) == machine.bootstrap != made
    assert public_key_of(machine.made.read_text()) == made
    assert machine.use() == 0
    assert public_key_of(machine.file.read_text()) == made
    assert Path(f"{machine.file}.pub").read_text().strip() == made
    assert machine.file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in machine.folder.iterdir()) == [machine.file.name, f"{machine.file.name}.pub"]
    assert [line for line in machine.log.read_text().splitlines() if not line.startswith("sync")] == [
        "sshd -t",
        "systemctl --quiet is-active ssh",
        "systemctl reload ssh",
    ]


def test_what_was_cut_off_goes_on_where_it_was(machine: Machine) -> None:
    """Each step can be done again at any point, and never makes a second key."""
    made = machine.make()
    assert machine.make() == made
    machine.made.rename(machine.file)  # cut off before sshd was told
    assert machine.make() == made
    assert machine.use() == machine.use() == 0
    assert public_key_of(machine.file.read_text()) == made
    assert Path(f"{machine.file}.pub").read_text().strip() == made


def test_half_a_key_that_a_power_cut_left_is_made_anew(machine: Machine) -> None:
    """It never comes into the place of a whole one."""
    machine.made.write_bytes(b"")
    assert machine.use() == 0
    assert public_key_of(machine.file.read_text()) == machine.bootstrap
    machine.made.write_bytes(b"")
    assert public_key_of(machine.made.read_text() if (made := machine.make()) else "") == made


def test_the_console_tells_the_new_key(machine: Machine) -> None:
    """Whoever has lost the pinned one finds it where cloud-init shows the first."""
    made = machine.make()
    machine.use()
    lines = machine.console.read_text().splitlines()
    assert lines == ["-----BEGIN SSH HOST KEY KEYS-----", made, "-----END SSH HOST KEY KEYS-----"]


def test_a_console_that_cannot_be_written_is_no_failure(machine: Machine) -> None:
    """Many machines have none."""
    machine.make()
    assert machine.run("use", "/no/console")[0] == 0


def test_a_host_without_ssh_keygen_says_so_and_changes_nothing(machine: Machine) -> None:
    """Its key stays."""
    code, printed = machine.run("make", machine.bootstrap, PATH=str(machine.programs))
    assert (code, printed) == (121, "")
    assert not machine.made.exists()


def test_a_key_that_cannot_be_made_is_told(machine: Machine) -> None:
    """As on a full disk."""
    machine.program("ssh-keygen", 'case $* in *-y*) exec /usr/bin/ssh-keygen "$@" ;; *) exit 1 ;; esac')
    assert machine.run("make", machine.bootstrap)[0] == 122


def test_an_sshd_that_does_not_take_it_is_told(machine: Machine) -> None:
    """Its configuration may be broken: it is not reloaded then."""
    machine.make()
    assert machine.use(SSHD_CODE="255") == 124
    assert "reload" not in machine.log.read_text()


def test_the_unit_may_be_called_sshd(machine: Machine) -> None:
    """As it is on the distributions that come from Red Hat."""
    machine.make()
    assert machine.use(SSH_UNIT="3") == 0
    assert machine.log.read_text().splitlines()[-1] == "systemctl reload sshd"
