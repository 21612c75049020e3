"""What is left over: `gc` removes what carries this service's tags and belongs to no cluster, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.lab.labproc import LabProcess, start_lab
from tests.lab.serviceproc import Service, start_service

PREFIX = "Flambe_Instance_Terminate_CPU_Utilization_"
TIMED: dict[str, Any] = {"factories_num": 1, "orchestrator_timeout": 2, "factories_timeout": 1}


@pytest.fixture
def own(lab: LabProcess) -> Iterator[Service]:
    """A service that looks for orphans each second, and has little grace."""
    with start_service(lab, survey__interval="1s", gc__grace="1s") as service:
        yield service


def forget(service: Service) -> None:
    """Take every cluster's record out of the journal of a service that does not run."""
    with closing(sqlite3.connect(service.state / "journal.sqlite")) as journal, journal:
        for table in ("entry", "checkpoint", "audit"):
            journal.execute(f"DELETE FROM {table}")


def tags_of(lab: LabProcess, resource: str) -> dict[str, str]:
    """The tags of an instance or a volume."""
    found = lab.boto("ec2").describe_tags(Filters=[{"Name": "resource-id", "Values": [resource]}])["Tags"]
    return {tag["Key"]: tag["Value"] for tag in found}


def volumes_of(lab: LabProcess, *instances: str) -> list[str]:
    """The volumes that are attached to instances."""
    attached = [{"Name": "attachment.instance-id", "Values": list(instances)}]
    return [volume["VolumeId"] for volume in lab.boto("ec2").describe_volumes(Filters=attached)["Volumes"]]


def existing(lab: LabProcess, *volumes: str) -> dict[str, str]:
    """Those of the volumes that exist, with their states."""
    by_id = [{"Name": "volume-id", "Values": list(volumes)}]
    return {
        volume["VolumeId"]: volume["State"] for volume in lab.boto("ec2").describe_volumes(Filters=by_id)["Volumes"]
    }


def keep_volume(lab: LabProcess, instance: str) -> str:
    """Have an instance's volume outlive it, as a person does; return the volume."""
    ec2 = lab.boto("ec2")
    [described] = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    [device] = described["BlockDeviceMappings"]
    lasting = {"DeviceName": device["DeviceName"], "Ebs": {"DeleteOnTermination": False}}
    ec2.modify_instance_attribute(InstanceId=instance, BlockDeviceMappings=[lasting])
    return str(device["Ebs"]["VolumeId"])


def foreign(lab: LabProcess, tags: dict[str, str]) -> str:
    """An instance that somebody else launched, with tags."""
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    specifications = [{"ResourceType": kind, "Tags": listed} for kind in ("instance", "volume")]
    [instance] = lab.launch(TagSpecifications=specifications)
    lab.until_state([instance], "running")
    return instance


def plan(service: Service) -> list[dict[str, Any]]:
    """What `gc --plan` shows."""
    answer = service.api("GET", "/v1/orphans")
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer.document
    return found


def test_what_a_lost_record_has_left_over_is_removed_and_nothing_else(lab: LabProcess, own: Service) -> None:
    """A leaked host, alarms and a volume go; other services' and people's things stay, whatever their names."""
    status = own.up(own.file(**TIMED))
    orchestrator, factory = (i["id"] for i in status["instances"])
    lab.until(lambda: len(lab.alarms()) == 2)
    ours = tags_of(lab, factory)
    [volume] = volumes_of(lab, factory)
    kept = keep_volume(lab, orchestrator)
    own.kill()
    forget(own)
    # Nobody can tell any more what the hosts were, or the clusters would be found again; and one is ended by hand.
    lab.boto("ec2").delete_tags(Resources=[orchestrator, factory], Tags=[{"Key": "Role"}])
    lab.fault({"kind": "outliving", "instance": factory})
    lab.boto("ec2").terminate_instances(InstanceIds=[factory])
    lab.until_state([factory], "terminated")
    others = {
        foreign(lab, {**ours, "flambed:daemon": "0123456789abcdef"}),
        foreign(lab, {"Name": "c_factory_9"}),
        foreign(lab, {key: value for key, value in ours.items() if not key.startswith("flambed:")}),
    }
    loose = lab.boto("ec2").create_volume(Size=8, AvailabilityZone=status_zone(lab, orchestrator))["VolumeId"]
    without = {key: value for key, value in ours.items() if key != "flambed:launch"}
    listed = [{"Key": key, "Value": value} for key, value in without.items()]
    lab.boto("ec2").create_tags(Resources=[loose], Tags=listed)
    before = {one: tags_of(lab, one) for one in (*others, *volumes_of(lab, *others), loose)}

    own.start()
    expected = {orchestrator, f"{PREFIX}{orchestrator}", f"{PREFIX}{factory}", volume}
    lab.until(lambda: {one["id"] for one in plan(own) if one["removable"]} == expected)
    assert {one["id"] for one in plan(own)} == expected
    assert {line["id"] for line in own.until_logged("orphan.found", count=4)} == expected

    refused = own.ctl("gc")
    assert (refused.code, "give --yes" in refused.stderr) == (2, True), refused
    assert {one["id"] for one in plan(own)} == expected
    ended = own.ctl("gc", "--yes")
    assert ended.code == 0, ended
    assert f"{orchestrator} terminated" in ended.stdout.splitlines()
    assert {line["id"] for line in own.log("orphan.removed")} == expected

    states = {i["id"]: i["state"] for i in lab.instances(hosts=False)}
    assert states[orchestrator] == "terminated"
    assert {states[one] for one in others} == {"running"}
    assert {one: tags_of(lab, one) for one in before} == before
    assert lab.alarms() == []
    assert existing(lab, volume, kept, loose) == {kept: "available", loose: "available"}
    assert "flambed:launch" not in tags_of(lab, kept), "it is a person's now"
    assert own.ctl("gc").stdout == "nothing is left over\n"
    for one in (kept, loose):
        lab.boto("ec2").delete_volume(VolumeId=one)


def status_zone(lab: LabProcess, instance: str) -> str:
    """The availability zone of an instance."""
    [described] = lab.boto("ec2").describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    return str(described["Placement"]["AvailabilityZone"])


def test_a_protected_orphan_is_reported_and_keeps_its_alarm(lab: LabProcess, own: Service) -> None:
    """`gc` ends with 1 and says why; without its protection it goes."""
    status = own.up(own.file(**TIMED))
    hosts = [i["id"] for i in status["instances"]]
    lab.until(lambda: len(lab.alarms()) == 2)
    own.kill()
    forget(own)
    ec2 = lab.boto("ec2")
    ec2.delete_tags(Resources=hosts, Tags=[{"Key": "Role"}])
    for host in hosts:
        ec2.modify_instance_attribute(InstanceId=host, DisableApiTermination={"Value": True})
    own.start()
    lab.until(lambda: sum(one["removable"] for one in plan(own)) == 4)
    ended = own.ctl("gc", "--yes")
    assert ended.code == 1, ended
    for host in hosts:
        assert (
            f"{host} was not removed: TerminateInstances: The instance '{host}' may not be terminated" in ended.stdout
        )
        assert f"{PREFIX}{host} was not removed: its instance {host} lives on" in ended.stdout
    assert {i["state"] for i in lab.instances(hosts=False) if i["id"] in hosts} == {"running"}
    assert len(lab.alarms()) == 2
    for host in hosts:
        ec2.modify_instance_attribute(InstanceId=host, DisableApiTermination={"Value": False})
    assert own.ctl("gc", "--yes").code == 0
    assert lab.alarms() == []


def test_a_cluster_that_is_known_leaves_no_orphans_whatever_its_age(lab: LabProcess, own: Service) -> None:
    """Its hosts, alarms and volumes are somebody's, and so is what its last `down` has left for a moment."""
    lab.fault({"kind": "outliving", "match": {"role": "Factory"}})
    own.up(own.file(**TIMED))
    own.until_logged("protection.alarm_armed", count=2)
    assert plan(own) == []
    assert own.ctl("gc", "--yes").stdout == "nothing is left over\n"
    own.down()
    assert [one["kind"] for one in plan(own)] == []
    assert own.log("orphan.found") == []


def test_volumes_that_outlive_a_down_are_deleted_but_not_what_is_to_stay() -> None:
    """EC2 sometimes leaves a volume that was to go; one whose DeleteOnTermination is off survives `down` and `gc`."""
    with (
        start_lab("--quotas", "off", "--shutdown", "0.1", "--ssh-delay", "0.05", "--minute", "2") as lab,
        start_service(lab, survey__interval="1s", gc__grace="1s") as service,
    ):
        lab.fault({"kind": "outliving", "match": {"role": "Factory"}})
        status = service.up(service.file(factories_num=3))
        orchestrator, *factories = (i["id"] for i in status["instances"])
        left = volumes_of(lab, *factories)
        kept = keep_volume(lab, orchestrator)
        assert service.until_logged("volume.left")[0]["volumes"] == [kept]
        begun = len(lab.calls())
        service.down()
        assert lab.boto("cloudwatch").describe_alarms()["MetricAlarms"] == []
        [line] = service.until_logged("volume.removed")
        assert sorted(line["deleted"]) == sorted(left)
        looked = [c for c in lab.calls(begun, action="DescribeVolumes") if "volume-id" in str(c["params"])]
        assert len(looked) == 1, "one look for all that ended together"
        assert {c["params"]["VolumeId"] for c in lab.calls(begun, action="DeleteVolume")} == set(left)
        assert existing(lab, kept, *left) == {kept: "available"}
        service.kill()
        forget(service)
        service.start()
        assert service.ctl("status", "c").code == 5
        begun = len(lab.calls())
        here = {"action": "DescribeVolumes", "region": lab.info["region"]}
        lab.until(lambda: len(lab.calls(begun, **here)) >= 3)  # by surveys, each of which would see an orphan
        assert service.ctl("gc", "--yes").stdout == "nothing is left over\n"
        assert existing(lab, kept) == {kept: "available"}
        assert tags_of(lab, kept)["Name"] == "c_orchestrator", "it keeps its other tags"
