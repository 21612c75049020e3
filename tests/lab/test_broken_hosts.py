"""Hosts that do not answer and set-up that fails: the others become ready, and a person is told what to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import Service, start_service


@pytest.fixture(scope="module")
def _module_service(_session_lab: LabProcess) -> Iterator[Service]:
    """A service that does not wait long for a host."""
    with start_service(_session_lab, ssh__deadline="3s", ssh__connect_timeout="1s") as service:
        yield service


COMMANDS = ["echo preparing", "echo wants 9 GB and has 2 GB; mount /data", "echo all set >> done"]


@pytest.mark.seed("S16", "S38")
def test_one_host_that_is_mute_and_one_whose_set_up_fails_leave_the_others_ready(service: Service) -> None:
    """`up` ends with 1 and tells the hosts, the command, its output and what to do; `retry` goes on from there."""
    for number, fault in enumerate(({"kind": "mute"}, {"kind": "fail", "pattern": "mount ", "code": 32})):
        service.lab.fault({"kind": "host", "match": {"role": "Factory", "nth": number}, "fault": fault})
    ended = service.ctl("up", service.file(factories_num=4, setup_cmds=COMMANDS))

    assert ended.code == 1, ended
    status = service.status()
    hosts = {instance["name"]: instance for instance in status["instances"]}
    assert status["phase"] == "degraded"
    failed = {name for name, instance in hosts.items() if instance["stage"] == "failed"}
    assert len(failed) == 2
    assert {instance["stage"] for name, instance in hosts.items() if name not in failed} == {"ready"}
    [unmounted] = [name for name in failed if "set-up command 2 of 3 ended with 32" in hosts[name]["reason"]]
    [silent] = failed - {unmounted}
    for name in failed:
        assert name in status["reason"]
        assert name in ended.stderr
    assert "c is degraded" in ended.stderr
    assert ": echo wants 9 GB and has 2 GB; mount /data (exit code 32)" in ended.stderr, "the command"
    assert "  wants 9 GB and has 2 GB\n" in ended.stderr, "what it printed"
    assert "flambectl retry you@example.com/c" in ended.stderr, "what to do"
    assert "flambectl down you@example.com/c" in ended.stderr, "what else to do"
    assert "took a connection but no login" in hosts[silent]["reason"]
    assert hosts[unmounted]["setup"] == {"done": 1, "of": 3, "running": None}

    [record] = service.ctl("logs", "c", unmounted, "--json").document[1:]
    assert record["code"] == 32
    assert record["output"].startswith("wants 9 GB and has 2 GB\n")
    assert "failed" in service.ctl("why", "c", silent).stdout
    assert service.ctl("why", "c", "i-none").code == 5

    service.lab.clear_faults()
    assert service.ctl("retry", "c").code == 0
    status = service.until_phase("ready")
    for instance in status["instances"]:
        host = service.lab.instance(instance["id"])["host"]
        assert host["files"]["/home/ubuntu/done"] == "all set\n"
        assert [c["text"] for c in host["commands"]].count("echo preparing") <= 1, "it goes on, and begins not again"
    service.down()


@pytest.mark.seed("S16")
def test_a_command_that_does_not_end_is_given_up_after_its_time(service: Service) -> None:
    """Nothing hangs: the host fails with what the command had printed, and the rest of the cluster is not touched."""
    file = service.file(factories_num=1, setup_cmds=["echo going; sleep 300"], setup={"timeout": "1s"})
    ended = service.ctl("up", file)
    assert ended.code == 1, ended
    assert "has not ended after 1 s" in ended.stderr
    assert "going" in ended.stderr
    assert {instance["stage"] for instance in service.status()["instances"]} == {"failed"}
    service.down()


@pytest.mark.seed("S16")
def test_set_up_has_no_input_and_no_terminal(service: Service) -> None:
    """A command that asks gets the end of its input at once; what ran is kept for `logs`, by host and command."""
    ask = 'read answer || echo "nobody answers"; [ -t 0 ] || echo "no terminal"'
    service.up(service.file(factories_num=1, setup_cmds=[ask]))
    records = service.ctl("logs", "c", "--json").document
    assert {(r["name"], r["code"], r["output"]) for r in records} == {
        (name, 0, "nobody answers\nno terminal\n") for name in ("c_orchestrator", "c_factory_0")
    }
    service.down()


def test_a_host_that_shows_another_key_than_its_own_is_never_logged_in_to(service: Service) -> None:
    """Nobody's key is accepted blindly: the host fails, and its reason says so."""
    service.lab.fault({"kind": "host", "match": {"role": "Factory", "nth": 0}, "fault": {"kind": "wrong_key"}})
    ended = service.ctl("up", service.file(factories_num=1, setup_cmds=["true"]))
    assert ended.code == 1, ended
    [failed] = [i for i in service.status()["instances"] if i["stage"] == "failed"]
    assert failed["role"] == "Factory"
    assert "host key" in failed["reason"]
    assert service.lab.instance(failed["id"])["host"]["logins"] == []
    service.down()
