"""A cluster that Flambé launched, with Flambé's own tags and nothing of ours, is found and taken over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import CREATOR, Service

READS = ("Describe", "Get", "List", "Receive")
"""How calls begin that change nothing."""


@dataclass(frozen=True)
class Flambe:
    """Launches as the source document describes it: tags and alarm, no user data, no client token."""

    lab: LabProcess

    def launch(self, role: str, name: str, *, cluster: str = "old") -> str:
        """One instance with its volume and its alarm; its id."""
        tags = {
            "creator": CREATOR,
            "Purpose": "flambe",
            "Cluster-Name": cluster,
            "Role": role,
            "Name": name,
            "cost-centre": "42",
        }
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        [instance] = self.lab.launch(
            role=role,
            InstanceType="t3.large" if role == "Orchestrator" else "g4dn.xlarge",
            TagSpecifications=[{"ResourceType": kind, "Tags": listed} for kind in ("instance", "volume")],
        )
        return instance

    def arm(self, instance: str) -> None:
        """The alarm that Flambé puts: ten minutes under 0.1 %."""
        self.lab.boto("cloudwatch").put_metric_alarm(
            AlarmName=f"Flambe_Instance_Terminate_CPU_Utilization_{instance}",
            AlarmActions=["arn:aws:automate:us-east-1:ec2:terminate"],
            MetricName="CPUUtilization",
            Namespace="AWS/EC2",
            Statistic="Average",
            Dimensions=[{"Name": "InstanceId", "Value": instance}],
            Period=60,
            EvaluationPeriods=600,
            Threshold=0.1,
            ComparisonOperator="LessThanThreshold",
        )


@pytest.fixture
def flambe(lab: LabProcess) -> Iterator[Flambe]:
    """What Flambé would have done before us."""
    yield Flambe(lab)
    names = [alarm["AlarmName"] for alarm in lab.alarms()]
    lab.boto("cloudwatch").delete_alarms(AlarmNames=names)


def tags(lab: LabProcess, resource: str) -> dict[str, str]:
    """The tags of an instance or a volume, as EC2 tells them."""
    found = lab.boto("ec2").describe_tags(Filters=[{"Name": "resource-id", "Values": [resource]}])["Tags"]
    return {tag["Key"]: tag["Value"] for tag in found}


def console(lab: LabProcess, instance: str) -> str:
    """What an instance has printed while it booted."""
    return str(lab.boto("ec2").get_console_output(InstanceId=instance).get("Output", ""))


def old_cluster(flambe: Flambe) -> dict[str, str]:
    """An orchestrator, and factories 1 (stopped), 2 and 4; name -> id."""
    ids = {
        name: flambe.launch("Orchestrator" if "orch" in name else "Factory", name)
        for name in ("old_orchestrator", "old_factory_1", "old_factory_2", "old_factory_4")
    }
    flambe.lab.until_state(list(ids.values()), "running")
    flambe.lab.until(lambda: all("END SSH HOST KEY KEYS" in console(flambe.lab, host) for host in ids.values()))
    for instance in ids.values():
        flambe.arm(instance)
    flambe.lab.boto("ec2").stop_instances(InstanceIds=[ids["old_factory_1"]])
    flambe.lab.until_state([ids["old_factory_1"]], "stopped")
    return ids


@pytest.mark.idle("adopted, idle for hours")
@pytest.mark.seed("S19", "S22", "S23", "S33", "S34", "S37")
def test_a_cluster_of_flambes_is_adopted_with_all_that_it_has(flambe: Flambe, service: Service) -> None:
    """Indices and foreign tags are kept, stopped hosts started, alarms replaced in place, and only what lacks launched."""
    lab, ids = flambe.lab, old_cluster(flambe)
    begun = len(lab.calls())
    file = service.file("old", factories_num=5, factories_timeout=2, tags={"project": "x"}, setup_cmds=["echo hi"])
    plan = service.ctl("plan", file, "--json").document
    assert sorted(plan["adopt"]) == sorted(ids.values())
    assert plan["launch"] == {"Orchestrator": 0, "Factory": 2}
    status = service.up(file)

    names = {i["name"]: i["id"] for i in status["instances"]}
    assert {name: names[name] for name in ids} == ids
    assert sorted(names) == sorted([*ids, "old_factory_0", "old_factory_3"]), "new hosts take the lowest free indices"
    assert {i["id"] for i in status["instances"] if i["adopted"]} == set(ids.values())
    assert [int(c["params"]["MaxCount"]) for c in lab.calls(begun, action="RunInstances")] == [2]

    learned = {line["instance"]: line["source"] for line in service.log("host.key_learned")}
    assert {host: learned.get(host) for host in ids.values()} == dict.fromkeys(ids.values(), "console")
    for name, instance in ids.items():
        volumes = lab.boto("ec2").describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance]}])[
            "Volumes"
        ]
        for resource in (instance, *(volume["VolumeId"] for volume in volumes)):
            carried = tags(lab, resource)
            assert carried["cost-centre"] == "42", "no tag is removed"
            assert (carried["Name"], carried["project"], carried["flambed:owner"]) == (name, "x", str(os.geteuid()))
        assert len(volumes) == 1

    calls = lab.calls(begun)
    for name in ("old_factory_1", "old_factory_2", "old_factory_4"):
        alarm = f"Flambe_Instance_Terminate_CPU_Utilization_{ids[name]}"
        of_it = [c for c in calls if alarm in str(c["params"]) and not c["action"].startswith(READS)]
        assert [c["action"] for c in of_it] == ["PutMetricAlarm"], "replaced under its name, and never deleted"
        seeded = [c for c in calls if c["action"] == "PutMetricData" and ids[name] in str(c["params"])]
        assert calls.index(seeded[0]) < calls.index(of_it[0]), "points before the alarm, or it would fire at once"
    described = {a["AlarmName"].rpartition("_")[2]: a for a in lab.boto("cloudwatch").describe_alarms()["MetricAlarms"]}
    assert ids["old_orchestrator"] not in described, "its timeout is -1 now"
    assert {a["EvaluationPeriods"] * a["Period"] for a in described.values()} == {2 * 3600}

    service.down("old")
    assert lab.alarms() == []


@pytest.mark.seed("S19")
def test_two_orchestrators_of_one_name_are_an_error_that_names_both(flambe: Flambe, service: Service) -> None:
    """Neither is touched, nothing is launched."""
    ids = sorted(flambe.launch("Orchestrator", "old_orchestrator") for _ in range(2))
    flambe.lab.until_state(ids, "running")
    begun = len(flambe.lab.calls())
    ended = service.ctl("up", service.file("old"))
    assert ended.code == 1, ended
    for instance in ids:
        assert instance in ended.stderr
    # The cluster before may still be armed meanwhile: a launch, and what is about these two, is looked for.
    calls = [c for c in flambe.lab.calls(begun) if any(i in str(c["params"]) for i in ids) or "Run" in c["action"]]
    assert [c["action"] for c in calls if not c["action"].startswith(READS)] == []


@pytest.mark.seed("S19", "S30")
def test_other_peoples_instances_are_left_alone(flambe: Flambe, service: Service) -> None:
    """Another name, another creator or another purpose is not ours, whatever else it has in common."""
    other = flambe.launch("Factory", "older_factory_1", cluster="older")
    stranger = flambe.launch("Factory", "old_factory_1")
    flambe.lab.boto("ec2").create_tags(Resources=[stranger], Tags=[{"Key": "creator", "Value": "else@example.com"}])
    unrelated = flambe.launch("Factory", "old_factory_1")
    flambe.lab.boto("ec2").create_tags(Resources=[unrelated], Tags=[{"Key": "Purpose", "Value": "web"}])
    others = {other, stranger, unrelated}
    flambe.lab.until_state(sorted(others), "running")
    before = {instance: tags(flambe.lab, instance) for instance in others}

    status = service.up(service.file("old", factories_num=1))
    assert not {i["id"] for i in status["instances"]} & others
    service.down("old")
    assert {i["id"] for i in flambe.lab.instances(hosts=False) if i["state"] == "running"} == others
    assert {instance: tags(flambe.lab, instance) for instance in others} == before


def test_the_journal_may_be_lost_and_the_cluster_is_found_again(service: Service) -> None:
    """A service with an empty state folder takes over what it had launched itself."""
    file = service.file(factories_num=2, setup_cmds=["echo x >> runs"])
    before = service.up(file)
    service.stop()
    shutil.rmtree(service.state)
    service.start()
    assert service.ctl("status", "c").code == 5
    status = service.up(file)
    assert {i["id"]: i["name"] for i in status["instances"]} == {i["id"]: i["name"] for i in before["instances"]}
    assert {i["adopted"] for i in status["instances"]} == {True}
    for instance in status["instances"]:
        assert service.lab.instance(instance["id"])["host"]["files"]["/home/ubuntu/runs"] == "x\n", (
            "it was set up before"
        )
    service.down()
