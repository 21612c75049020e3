"""Launches that fail: what this launch created is given back, what AWS said is told, and waiting helps where it can."""

from __future__ import annotations

import pytest

from tests.lab.serviceproc import Service


def alive(service: Service) -> list[str]:
    """The ids of the lab's instances that have not ended."""
    return [i["id"] for i in service.lab.instances(hosts=False) if i["state"] not in {"shutting-down", "terminated"}]


@pytest.mark.seed("S31", "S38")
@pytest.mark.parametrize("first", [0, 1], ids=["first call", "second call"])
def test_a_launch_that_aws_refuses_is_rolled_back(service: Service, first: int) -> None:
    """Whichever role it was: nothing of this launch stays, and AWS's own words are told."""
    service.lab.fault({
        "kind": "error", "service": "ec2", "action": "RunInstances", "after": first, "count": None,
        "code": "InvalidParameterValue", "message": "the lab dislikes this value",
    })  # fmt: skip
    ended = service.ctl("up", service.file())
    assert ended.code == 1, ended
    assert "the lab dislikes this value" in ended.stderr
    assert "InvalidParameterValue" in ended.stderr
    status = service.until(lambda status: all(i["stage"] == "gone" for i in status["instances"]))
    assert status["phase"] == "failed"
    assert alive(service) == []
    service.lab.clear_faults()
    service.up(service.file())
    service.down()


@pytest.mark.seed("S31")
def test_without_capacity_for_factories_the_orchestrator_is_given_back_at_the_deadline(service: Service) -> None:
    """It is asked for again until launch.deadline, and then rolled back."""
    service.lab.fault({"kind": "capacity", "type": "g4dn.xlarge", "count": 0})
    ended = service.ctl("up", service.file(launch={"deadline": "2s"}))
    assert ended.code == 1, ended
    assert "InsufficientInstanceCapacity" in ended.stderr
    assert "launch.deadline" in ended.stderr
    service.until(lambda status: all(i["stage"] == "gone" for i in status["instances"]))
    assert alive(service) == []


@pytest.mark.seed("S31")
def test_what_existed_before_a_failed_launch_is_left_alone(service: Service) -> None:
    """More factories cannot be had: those that there were go on, and `up` says what is missing."""
    before = {i["id"] for i in service.up(service.file(factories_num=2))["instances"]}
    service.lab.fault({
        "kind": "error", "action": "RunInstances", "count": None, "code": "VcpuLimitExceeded", "message": "0 vCPUs left",
    })  # fmt: skip
    ended = service.ctl("up", service.file(factories_num=4))
    assert ended.code == 1, ended
    assert "0 vCPUs left" in ended.stderr
    assert service.status()["phase"] == "degraded"
    assert set(alive(service)) == before
    service.lab.clear_faults()
    assert len(service.up(service.file(factories_num=4))["instances"]) == 5
    service.down()


@pytest.mark.seed("S31")
def test_some_of_the_factories_are_kept_and_the_cluster_is_degraded(service: Service) -> None:
    """EC2 launches what the zone can fit: that much is set up, and the rest is asked for again until the deadline."""
    service.lab.fault({"kind": "capacity", "type": "g4dn.xlarge", "count": 2})
    ended = service.ctl("up", service.file(factories_num=5, launch={"deadline": "2s"}, setup_cmds=["true"]))
    assert ended.code == 1, ended
    status = service.status()
    assert status["phase"] == "degraded"
    assert "3 of 5 factories missing" in status["reason"]
    assert status["stages"] == {"ready": 3}
    service.down()


def test_throttling_is_waited_for_and_is_never_called_a_lack_of_capacity(service: Service) -> None:
    """AWS says "too fast" to the first calls: the cluster comes up all the same, and no reason speaks of capacity."""
    service.lab.fault({
        "kind": "error", "service": "ec2", "action": "RunInstances", "count": 2, "status": 503,
        "code": "RequestLimitExceeded", "message": "Request limit exceeded.",
    })  # fmt: skip
    service.up(service.file())
    reasons = {line["reason"] for line in service.log("action.failed", "cluster.phase_changed") if line["reason"]}
    assert not [reason for reason in reasons if "capacity" in reason.lower()], reasons
    service.down()


def test_an_instance_that_ends_while_it_boots_is_replaced(service: Service) -> None:
    """EC2 gives up on one: another one takes its place and its index."""
    service.lab.fault({"kind": "die", "match": {"role": "Factory", "nth": 0}, "reason": "Client.VolumeLimitExceeded"})
    status = service.up(service.file(factories_num=2))
    living = [i["name"] for i in status["instances"] if i["stage"] == "ready"]
    assert sorted(living) == ["c_factory_0", "c_factory_1", "c_orchestrator"]
    service.down()


@pytest.mark.seed("S38")
def test_an_image_or_a_type_that_there_is_not_is_told_before_anything_is_launched(service: Service) -> None:
    """An unknown id, and a mistyped instance type with the nearest one: refused before a RunInstances."""
    begun = len(service.lab.calls())
    ended = service.ctl("up", service.file(factory_ami="ami-0123456789abcdef0"))
    assert ended.code == 1, ended
    assert "ami-0123456789abcdef0" in ended.stderr
    ended = service.ctl("up", service.file("d", factories_type="g4dn.xlrge"))
    assert ended.code == 1, ended
    assert "g4dn.xlarge" in ended.stderr, "the nearest type"
    assert service.lab.calls(begun, action="RunInstances") == []
