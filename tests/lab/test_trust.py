"""Trust in hosts, from end to end: keys of their own, the way from the orchestrator, and a key that has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from flambed.hostkey import fingerprint
from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import Service, start_service

KEY = "/etc/ssh/ssh_host_ed25519_key"


@pytest.fixture(scope="module")
def _module_service(_session_lab: LabProcess) -> Iterator[Service]:
    """A service that does not wait long for a host."""
    with start_service(_session_lab, ssh__deadline="10s", ssh__connect_timeout="1s") as service:
        yield service


def files(service: Service, instance: str) -> dict[str, str]:
    """The files of a host."""
    found: dict[str, str] = service.lab.instance(instance)["host"]["files"]
    return found


def private_keys(service: Service, status: dict[str, Any]) -> dict[str, str]:
    """The host key of each host."""
    return {i["id"]: files(service, i["id"])[KEY] for i in status["instances"]}


def test_each_host_has_a_key_of_its_own_and_the_orchestrator_knows_them(service: Service) -> None:
    """None is the user data's; `flambectl ssh` uses them; the private key of the cluster lies on the orchestrator only."""
    status = service.up(service.file(factories_num=2))
    keys = private_keys(service, status)
    assert len(set(keys.values())) == 3
    bootstrap = (service.state / "keys" / status["id"] / "host_key").read_text()
    assert not any(key.split()[5:] == bootstrap.split()[5:] for key in keys.values())
    learned = {line["instance"]: line["key"] for line in service.log("host.key_learned")}
    for instance in keys:
        login = service.ctl("ssh", "c", instance, "--json").document
        assert [fingerprint(key) for key in login["host_keys"]] == [learned[instance]]

    [orchestrator] = [i["id"] for i in status["instances"] if i["index"] is None]
    factories = sorted(set(keys) - {orchestrator})
    service.lab.until(lambda: "/home/ubuntu/.ssh/config" in files(service, orchestrator))
    known = files(service, orchestrator)["/home/ubuntu/.flambed/ssh/known_hosts"].splitlines()
    assert sorted((line.split()[0], fingerprint(line.partition(" ")[2])) for line in known) == [
        (factory, learned[factory]) for factory in factories
    ]
    private = (service.state / "keys" / status["id"] / "peer_key").read_text()
    assert files(service, orchestrator)["/home/ubuntu/.flambed/ssh/id_ed25519"] == private
    secret = private.split("\n")[2]
    for factory in factories:
        assert not any(secret in content for content in files(service, factory).values())
        assert len(files(service, factory)["/home/ubuntu/.ssh/authorized_keys"].splitlines()) == 2
    kept = [path for path in service.state.rglob("*") if path.is_file() and path.name != "peer_key"]
    assert not any(secret.encode() in path.read_bytes() for path in kept), "neither journal nor log nor output has it"


def test_a_changed_key_is_refused_until_a_person_vouches_for_it(service: Service) -> None:
    """It is told at once and by name, nothing repairs it, and who has checked the key names it."""
    service.lab.fault({"kind": "host", "match": {"role": "Factory", "nth": 0}, "fault": {"kind": "wrong_key"}})
    assert service.ctl("up", service.file(factories_num=2)).code == 1
    [refused] = service.log("host.key_refused")
    assert refused["level"] == "error"
    [pinned], shown = refused["pinned"], refused["shown"]
    assert pinned != shown
    [row] = [i for i in service.status()["instances"] if i["id"] == refused["instance"]]
    assert row["stage"] == "failed"
    for told in (row["reason"], service.ctl("why", "c", row["id"]).stdout, service.ctl("doctor").stdout):
        assert shown in told
        assert pinned in told

    other = f"SHA256:{'a' * 43}"
    wrong = service.ctl("trust", "c", row["name"], "--fingerprint", other)
    assert wrong.code != 0
    assert shown in wrong.stderr
    assert service.ctl("trust", "c", row["name"]).code == 2, "a script has to name the key"
    trusted = service.ctl("trust", "c", row["name"], "--fingerprint", shown)
    assert (trusted.code, shown in trusted.stdout, pinned in trusted.stdout) == (0, True, True)
    service.until_phase("ready")
    [line] = service.log("host.key_trusted")
    assert (line["key"], line["was"], line["by"]) == (shown, pinned, os.getuid())
