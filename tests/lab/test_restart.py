"""kill -9 of the service, and another start on the same state folder: the cluster goes on where it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.serviceproc import Service

COMMANDS = ["echo first >> runs", "echo second >> runs; sleep 2", "echo third >> runs"]


def launches(service: Service) -> int:
    """How many RunInstances there were, over all clusters."""
    return len(service.lab.calls(action="RunInstances"))


@pytest.mark.seed("C01", "S16")
@pytest.mark.parametrize("end", [Service.kill, Service.stop], ids=["SIGKILL", "SIGTERM"])
def test_ended_in_the_middle_of_set_up_it_attaches_to_what_runs(
    service: Service, end: Callable[[Service], None]
) -> None:
    """The same instances; each command ran exactly once on each host, the one that ran through the end included."""
    file = service.file(factories_num=3, setup_cmds=COMMANDS)
    before = launches(service)
    with service.running_ctl("up", file) as up:
        service.until_logged("setup.command_started", count=4, number=1)
        was = service.status()
        end(service)
        assert up.stdout is not None
        assert up.wait(20) == 3, "the service cannot be reached any more"
        up.stdout.read()
    service.start()
    status = service.until_phase("ready")

    assert [i["id"] for i in status["instances"]] == [i["id"] for i in was["instances"]]
    assert launches(service) - before == 2
    for instance in status["instances"]:
        host = service.lab.instance(instance["id"])["host"]
        assert host["files"]["/home/ubuntu/runs"] == "first\nsecond\nthird\n"
        assert [c["text"] for c in host["commands"]].count("sleep 2") == 1
    assert len({line["fact"] for line in service.log("setup.command_ended") if line["number"] == 0}) == 4, (
        "a command that was written down as done is not looked at again"
    )
    service.down()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_number", [1, 2])
def test_killed_at_a_launch_it_launches_nothing_twice(service: Service, when: str, request_number: int) -> None:
    """The intent was written before: the same call with the same token is made again, whether or not it was heard."""
    file = service.file(factories_num=2)
    service.lab.fault({
        "kind": "kill", "pid": service.pid, "action": "RunInstances", "request": request_number, "when": when
    })  # fmt: skip
    ended = service.ctl("up", file)
    assert ended.code == 3, ended
    service.kill()
    service.start()
    status = service.until_phase("ready")
    mine = {instance["id"] for instance in status["instances"]}
    alive = {i["id"] for i in service.lab.instances(hosts=False) if i["state"] != "terminated"}
    assert mine == alive
    assert [instance["role"] for instance in status["instances"]] == ["Orchestrator", "Factory", "Factory"]
    service.down()


def test_killed_while_it_takes_a_cluster_down_it_ends_what_is_left(service: Service) -> None:
    """What was asked for is done, even if nobody asks again."""
    service.up(service.file(factories_num=2))
    service.lab.fault({
        "kind": "kill", "pid": service.pid, "action": "TerminateInstances", "request": 1, "when": "before"
    })  # fmt: skip
    assert service.ctl("down", "c", "--yes").code == 3
    service.kill()
    service.start()
    service.until_phase("gone")
    assert {i["state"] for i in service.lab.instances(hosts=False)} == {"terminated"}


def test_a_service_that_starts_again_finds_its_ready_cluster_as_it_was(service: Service) -> None:
    """A restart of a converged cluster launches nothing, sets nothing up and keeps who owns it."""
    before = service.up(service.file(factories_num=1, factories_timeout=1, setup_cmds=["echo x >> runs"]))
    service.stop()
    since, runs = len(service.lab.calls()), launches(service)
    service.start()
    status = service.until_phase("ready")
    kept = ("phase", "owner", "id", "instances")
    assert {name: status[name] for name in kept} == {name: before[name] for name in kept}
    for instance in status["instances"]:
        assert service.lab.instance(instance["id"])["host"]["files"]["/home/ubuntu/runs"] == "x\n"
    assert launches(service) == runs
    assert [c["action"] for c in service.lab.calls(since) if c["action"].startswith(("Run", "Create", "Term"))] == []
    service.down()
