"""One bastion for all tests: installed as the operator's page says, with a lab beside it in the same throwaway root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real.bastion import Bastion, follow_the_page
from tests.real.machine import booted


@pytest.fixture(scope="session")
def _session_bastion() -> Iterator[Bastion]:
    with booted() as machine, machine.lab("--quotas", "off", "--shutdown", "0.1", "--ssh-delay", "0.05") as lab:
        for user in ("alice", "bob", "carol"):
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
