"""Real parts for the tests: one bastion under a real systemd, and hosts with an sshd of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.parts import real_part, real_root
from tests.real.bastion import USERS, Bastion, follow_the_page
from tests.real.hosts import RealHost, real_host
from tests.real.machine import booted


@pytest.fixture(scope="session")
def _session_bastion() -> Iterator[Bastion]:
    """One for all tests, installed as the operator's page says, with a lab beside it in the same throwaway root."""
    with booted() as machine, machine.lab("--quotas", "off", "--shutdown", "0.1", "--ssh-delay", "0.05") as lab:
        for user in USERS:
            machine.run("useradd", "--create-home", user)
        bastion = Bastion(machine, lab)
        queues = ", ".join(f"{region}: {url}" for region, url in lab["queues"].items())
        bastion.drop_in(
            "lab",
            "Service",
            Environment=[
                f"AWS_ENDPOINT_URL={lab['endpoint']}",
                f"FLAMBED_SSH_PORT={lab['ssh_port']}",
                # YAML that needs no quotes, which the unit's own syntax would take away
                f"'FLAMBED_EVENTS__QUEUES={{{queues}}}'",
            ],
        )
        bastion.page = follow_the_page(machine)
        yield bastion


@pytest.fixture
def bastion(_session_bastion: Bastion) -> Iterator[Bastion]:
    """A bastion whose service runs; whatever a test changes of it, the next one finds it as it was."""
    _session_bastion.machine.run("systemctl", "start", "flambed.socket", "flambed.service")
    yield _session_bastion
    _session_bastion.restore()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Callable[..., RealHost]]:
    """Makes hosts, each with its own sshd; at the end none is left."""
    real_root("network namespaces")
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("sshd", "openssh-server")):
        real_part(program, package)
    tmp_path.chmod(0o755)
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(real_host(tmp_path, **how))
