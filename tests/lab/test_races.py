"""Things that happen at the same time, in another order, twice or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.serviceproc import Service


def alive(service: Service) -> set[str]:
    """The ids of the lab's instances that have not ended."""
    return {i["id"] for i in service.lab.instances(hosts=False) if i["state"] not in {"shutting-down", "terminated"}}


@pytest.mark.seed("S18")
def test_two_people_who_bring_the_same_cluster_up_at_once_get_one_cluster(service: Service) -> None:
    """Both see it become ready; each role was launched once."""
    begun = len(service.lab.calls())
    file = service.file(factories_num=3, setup_cmds=["sleep 0.3"])
    with service.running_ctl("up", file, "--json") as one, service.running_ctl("up", file, "--json") as other:
        for up in (one, other):
            out, err = up.communicate(timeout=30)
            assert up.returncode == 0, (out, err)
    assert len(service.lab.calls(begun, action="RunInstances")) == 2
    assert {instance["id"] for instance in service.status()["instances"]} == alive(service)
    service.down()


@pytest.mark.seed("S30")
def test_what_is_taken_down_while_it_is_launched_leaves_nothing(service: Service) -> None:
    """The launch is under way when `down` comes: what it creates is found by its token and ended."""
    service.lab.fault({"kind": "latency", "action": "RunInstances", "seconds": 1.0})
    assert service.ctl("up", service.file(), "--detach").code == 0
    service.until_logged("launch.intended", count=2)
    service.down()
    assert alive(service) == set()
    assert len(service.lab.calls(action="RunInstances", error=None)) >= 2, "it was too late to call them off"


def test_what_is_taken_down_while_it_is_set_up_stops_at_once(service: Service) -> None:
    """Nobody waits for the end of a long command."""
    assert service.ctl("up", service.file(setup_cmds=["sleep 600"]), "--detach").code == 0
    service.until_logged("setup.command_started", count=3)
    gone = service.down()
    assert {instance["stage"] for instance in gone["instances"]} == {"gone"}
    assert alive(service) == set()


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "events", "mode": "double"},
        {"kind": "events", "mode": "reverse", "seconds": 0.5},
        {"kind": "fresh", "seconds": 1.5},
        {"kind": "outage", "service": "ec2", "action": "RunInstances", "seconds": 1.0},
        {"kind": "error", "service": "ec2", "action": "RunInstances", "code": "reset", "when": "after", "count": 1},
        {"kind": "error", "service": "ec2", "action": "CreateTags", "code": "InvalidInstanceID.NotFound", "count": 2},
        {"kind": "error", "service": "ec2", "action": "DescribeInstances", "code": "InternalError", "status": 500,
         "count": 3, "after": 1},
        {"kind": "error", "service": "cloudwatch", "action": "PutMetricAlarm", "code": "ValidationError", "count": 2},
        {"kind": "host", "match": {"role": "Factory"}, "fault": {"kind": "deny", "seconds": 1.0}},
        {"kind": "host", "match": {"role": "Factory"}, "fault": {"kind": "drop", "pattern": "sleep", "count": 1,
         "seconds": 0.1}},
    ],
    ids=lambda fault: "-".join(str(fault[key]) for key in ("kind", "mode", "action", "fault") if key in fault)[:40],
)  # fmt: skip
def test_what_goes_wrong_for_a_while_delays_and_never_derails(service: Service, fault: dict[str, Any]) -> None:
    """The cluster becomes ready with one launch a role and every command run once, whatever it was."""
    begun = len(service.lab.calls())
    planned = service.ctl("plan", service.file())  # the region is open before the trouble begins
    assert planned.code == 0, planned
    service.lab.fault(fault)
    file = service.file(factories_timeout=1, setup_cmds=["echo x >> runs", "sleep 0.5; echo y >> runs"])
    status = service.up(file)
    created = {c["params"]["ClientToken"] for c in service.lab.calls(begun, action="RunInstances")}
    assert len(created) == 2
    assert {instance["id"] for instance in status["instances"]} == alive(service)
    for instance in status["instances"]:
        assert service.lab.instance(instance["id"])["host"]["files"]["/home/ubuntu/runs"] == "x\ny\n"
    service.down()


def test_new_set_up_commands_run_on_hosts_that_are_ready_and_no_host_is_replaced(service: Service) -> None:
    """What ran before, in the same order, is known on the host by what it is, and is not run again."""
    before = service.up(service.file(setup_cmds=["echo a >> runs"]))
    status = service.up(service.file(setup_cmds=["echo a >> runs", "echo b >> runs"]))
    assert [i["id"] for i in status["instances"]] == [i["id"] for i in before["instances"]]
    for instance in status["instances"]:
        assert service.lab.instance(instance["id"])["host"]["files"]["/home/ubuntu/runs"] == "a\nb\n"
        assert instance["setup"] == {"done": 2, "of": 2, "running": None}
    service.down()
